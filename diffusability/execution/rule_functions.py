"""Functions that Snakemake calls for the rules of stages: inputs, params and resources.

Each is returned for one stage, and looks the artifact up that a job's wildcards name. Snakemake
passes what a function names among its arguments: `wildcards`, `attempt`, `threads`, `resources`.
"""

import os
from collections.abc import Callable
from typing import Any

from snakemake.io import ancient  # type: ignore[import-untyped]

from diffusability.execution.priority import Priorities
from diffusability.execution.run_time import more_memory, more_minutes, run_minutes
from diffusability.execution.snakemake_adapter import with_known_arguments
from diffusability.study.core.workflow_files import VARIABLE
from diffusability.study.fisher_toy import STAGE as TOY_STAGE
from diffusability.study.fisher_toy import toy_plan
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.preflight.cost import Costs

Of = Callable[[Any], Any]  # from wildcards
AtAttempt = Callable[[Any, int], int]  # from wildcards and the number of the attempt
PER_PROCESS = 8_000  # megabytes of host memory of each of several processes of one training
SHUTDOWN = 600  # seconds that processes have to write a checkpoint after SIGTERM
LAUNCHER = "torch.distributed.run"  # starts one process per GPU


def memory(megabytes: int) -> AtAttempt:
    """Return a resources function: memory that grows with the attempt."""
    return with_known_arguments(lambda wildcards, attempt: more_memory(megabytes, attempt))


def fixed_minutes(least: int) -> AtAttempt:
    """Return a resources function: a time that does not depend on the study, but on the attempt."""
    return with_known_arguments(lambda wildcards, attempt: more_minutes(least, attempt))


class StageFunctions:
    """The functions of the rules that make the artifacts of a study, and of the toy study."""

    def __init__(self, plan: Plan, toy_study: str) -> None:
        """Number the tokenizers; the file of the toy study is read when one of its jobs is."""
        self._plan, self._toy_study = plan, toy_study
        self._priorities, self._costs = Priorities(plan), Costs(plan.study)
        self._found: dict[tuple[str, ...], Artifact] = {}

    def find(self, stage: str, wildcards: Any) -> Artifact:
        """Return the artifact that wildcards name.

        Raises:
            StudyError: the study has no such artifact.
        """
        labels = dict(wildcards)
        key = (stage, *labels.values())
        if key not in self._found:
            artifacts = toy_plan(self._toy_study) if stage == TOY_STAGE else self._plan
            self._found[key] = artifacts.find(stage, labels)
        return self._found[key]

    def made_from(self, stage: str) -> Of:
        """Return an input function: the cards of what an artifact is made from, by role.

        Their paths hold fingerprints, so their content cannot change under the same name: their
        age says nothing (`ancient`), and a copy, a checkout or a touch retrains nothing. Not so
        where the artifact is missing: Snakemake does not look for the outputs of what depends on a
        job that is forced (-R), and would leave it out.
        """

        @with_known_arguments
        def cards(wildcards: Any) -> dict[str, Any]:
            made = self.find(stage, wildcards)
            age = ancient if os.path.exists(made.card) else str
            return {role: age(artifact.card) for role, artifact in made.upstream.items()}

        return cards

    def job(self, stage: str) -> Callable[[Any, Any], str]:
        """Return a params function: the job of an artifact as canonical JSON.

        Asking for `threads` tells Snakemake not to compare it with the job of the last run: what
        the job makes is in the path, and how it is made (`train.compile`) is no reason to make it
        again.
        """
        return with_known_arguments(lambda wildcards, threads: self.find(stage, wildcards).job())

    def priority(self, stage: str) -> Of:
        """Return a priority function: tokenizers are finished in the order of the study."""
        return with_known_arguments(
            lambda wildcards: self._priorities.of(self.find(stage, wildcards))
        )

    def gpus(self, stage: str) -> dict[str, Of]:
        """Return the resource `gpu`, if a stage needs one: GPUs that share one artifact."""
        if not STAGES[stage].gpu:
            return {}

        def count(wildcards: Any) -> Any:
            return self.find(stage, wildcards).local.get("gpus", 1)

        return {"gpu": with_known_arguments(count)}

    def memory(self, stage: str) -> AtAttempt:
        """Return a resources function: megabytes of the stage, more for many processes.

        A diffusion training reads its latents in random order, again in every epoch: there is room
        for all of them in the page cache.
        """

        def at_attempt(wildcards: Any, attempt: int) -> int:
            artifact = self.find(stage, wildcards)
            cached = 0
            if stage == "diffusion":
                cached = self._costs.work(artifact.upstream["latents"]).bytes // 10**6
            own: int = max(STAGES[stage].memory, PER_PROCESS * artifact.local.get("gpus", 1))
            # the page cache gives way: a further attempt takes it first
            return max(own + cached, more_memory(own, attempt))

        return with_known_arguments(at_attempt)

    def minutes(self, stage: str) -> AtAttempt:
        """Return a resources function: how long a job may run, by what it has to compute."""

        @with_known_arguments
        def at_attempt(wildcards: Any, attempt: int) -> int:
            artifact = self.find(stage, wildcards)
            seconds = self._costs.work(artifact).seconds
            return run_minutes(artifact, seconds, STAGES[stage].minutes, attempt)

        return at_attempt

    def command(self, stage: str, options: str = "") -> Callable[[Any, Any], str]:
        """Return a params function: what makes an artifact, one process per GPU.

        A job whose training resumes is told its time. As with `job`, asking for `threads` or
        `resources` tells Snakemake not to compare the command with that of the last run. Only
        what needs resources asks for them: they take a fifth of the time of a dry run.
        """
        alone = f"python -m diffusability.script make.py {stage}{options}"
        if not STAGES[stage].resumes:
            return with_known_arguments(lambda wildcards, threads: alone)

        @with_known_arguments
        def line(wildcards: Any, resources: Any) -> str:
            limit = f" --minutes {resources.runtime}"
            if resources.get("gpu", 1) <= 1:
                return f"{alone}{limit}"
            script = f'"${VARIABLE}/scripts/make.py"'
            return (
                f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={SHUTDOWN};"
                f" python -m diffusability.execution.gpus {resources.gpu}"
                f" python -m {LAUNCHER} --standalone --nproc-per-node {resources.gpu}"
                f" {script} {stage}{options}{limit}"
            )

        return line
