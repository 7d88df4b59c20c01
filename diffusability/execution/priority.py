"""Which of the jobs that can start goes first: tokenizers are finished one after another."""

from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import STAGES

CHAIN = 100  # between one tokenizer and the next


class Priorities:
    """The priority of every artifact of a plan; higher goes first."""

    def __init__(self, plan: Plan) -> None:
        """Number the tokenizers, at each of their seeds, in the order of the study file."""
        chains = dict.fromkeys(_chain(artifact) for artifact in plan.of_stage("tokenizer"))
        self._places = {chain: place for place, chain in enumerate(reversed(chains), start=1)}

    def of(self, artifact: Artifact) -> int:
        """Return the priority: of an earlier tokenizer higher, of what all need the highest."""
        shared = len(self._places) + 1
        place = self._places.get(_chain(artifact), shared)
        return CHAIN * place + STAGES[artifact.stage].step


def _chain(artifact: Artifact) -> tuple[str, str]:
    labels = artifact.labels
    return labels.get("tokenizer", ""), labels.get("tokenizer_seed", "")
