"""Memory of one training step on one GPU: whether a job fits, and what makes it fit.

Counted are weights, gradients, both moments of Adam, the averaged weights, frozen networks, and all
that is kept for the backward pass. What comes and goes during the step is allowed for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from diffusability.errors import StudyError
from diffusability.study.entries.operations import (
    Kept,
    autoencoder,
    backbone,
    backbone_step,
    discriminator,
    tokenizer_step,
)
from diffusability.study.entries.regularizer import Gpe
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.study import Study

TRAININGS = ("tokenizer", "diffusion")  # stages whose steps are counted
TRAINED = 16  # bytes of a trained number: itself, its gradient and the two moments of Adam
SINGLE = 4  # bytes of a number in float32
# of what is kept, for gradients of activations and workspaces; less is kept where blocks are
# computed again, and those take as much as before: see RESULTS.md
PASSING, PASSING_RECOMPUTED = 1.15, 1.35
LESS = ". train.activation_checkpointing: true keeps less, with the same result"
CONTEXT = 2 * 10**9  # bytes of CUDA's context, its libraries and small tensors


@dataclass(frozen=True)
class StepMemory:
    """Memory of a training step on one GPU.

    Attributes:
        share: images of one GPU per step.
        images: computed at once; the others follow one after the other.
        weights: bytes that do not depend on the images.
        kept: for the backward pass.
        key: of the study, that says how many images are computed at once.
        recomputed: whether the network's blocks are computed again in the backward pass.
    """

    share: int
    images: int
    weights: int
    kept: Kept
    key: str
    recomputed: bool = False

    def bytes(self, images: int | None = None) -> int:
        """Return the bytes of a step with so many images at once, by default its own."""
        counted = self.kept.fixed + (images or self.images) * self.kept.image
        passing = PASSING_RECOMPUTED if self.recomputed else PASSING
        return self.weights + CONTEXT + round(passing * counted)

    def fits(self, limit: float) -> bool:
        """Return whether the step fits into so many bytes."""
        return self.bytes() <= limit

    def remedy(self, limit: float) -> str:
        """Return what makes the step fit, as a sentence."""
        fitting = [n for n in range(1, self.share + 1) if self.share % n == 0]
        fitting = [n for n in fitting if self.bytes(n) <= limit]
        if not fitting:
            return "not even one image at a time fits"
        if self.key == "part":
            return (
                f"train.part: {fitting[-1]} fits; it is part of what the tokenizer is, and of its "
                "fingerprint"
            )
        return f"train.accumulation: {self.share // fitting[-1]} fits, with the same result"


def step_memory(study: Study, artifact: Artifact) -> StepMemory | None:
    """Return the memory of a step of a tokenizer or diffusion model; None for anything else."""
    if artifact.stage == "diffusion":
        return _diffusion(study, artifact)
    if artifact.stage == "tokenizer":
        entry = study.tokenizers[artifact.labels["tokenizer"]]
        if isinstance(entry, TokenizerSpec) and not isinstance(entry.regularizer, Gpe):
            return _tokenizer(study, entry)
    return None


def _tokenizer(study: Study, entry: TokenizerSpec) -> StepMemory:
    data, train, objective = study.dataset, entry.train, entry.objective
    channels, side = data.image_channels, data.size
    averaged = 1 if train.ema is not None else 0
    parameters = autoencoder(entry.network, channels, side).whole.parameters
    weights = (TRAINED + averaged * SINGLE) * parameters
    if objective.gan:
        weights += TRAINED * discriminator(objective, channels, side).parameters
    for name in entry.encoders.values():
        cost = study.encoders[name].cost(channels, side, data.num_classes)
        weights += SINGLE * cost.parameters
    named = objective.perceptual_encoder
    perceptual = None if named is None else study.encoders[named]
    again = train.activation_checkpointing
    kept = tokenizer_step(
        entry.network, objective, perceptual, channels, side, train.precision, again
    )
    part = train.part or train.batch
    return StepMemory(train.batch // entry.gpus, part, weights, kept, "part", again)


def _diffusion(study: Study, artifact: Artifact) -> StepMemory:
    spec = study.backbones[artifact.labels["backbone"]]
    entry, train = study.tokenizers[artifact.labels["tokenizer"]], spec.train
    channels, grid = entry.channels, study.dataset.size // entry.factor
    classes = study.dataset.num_classes
    averaged = 1 if train.ema is not None else 0
    parameters = backbone(spec, channels, grid, classes).parameters
    again = train.activation_checkpointing
    kept = backbone_step(spec, channels, grid, classes, train.precision, again)
    share = train.batch // spec.gpus
    weights = (TRAINED + averaged * SINGLE) * parameters
    return StepMemory(share, share // train.accumulation, weights, kept, "accumulation", again)


def largest_steps(plan: Plan) -> Iterator[tuple[str, StepMemory]]:
    """Yield every kind of training with the memory of its largest step.

    Tokenizers are named by their family, diffusion models by their backbone.
    """
    found: dict[str, StepMemory] = {}
    for artifact in plan.of_stage(*TRAININGS):
        memory = step_memory(plan.study, artifact)
        if memory is None:
            continue
        kind = "tokenizer" if artifact.stage == "tokenizer" else "backbone"
        name = artifact.labels[kind]
        if kind == "tokenizer":
            name = plan.study.tokenizers[name].family
        name = f"{artifact.stage} {name}"
        if name not in found or memory.bytes() > found[name].bytes():
            found[name] = memory
    yield from found.items()


def check_memory(plan: Plan) -> None:
    """Refuse a study with a training that does not fit its GPUs.

    Raises:
        StudyError: a step needs more than the study's `gpu_memory`; what makes it fit.
    """
    limit = plan.study.gpu_memory * 1e9
    for name, memory in largest_steps(plan):
        if not memory.fits(limit):
            less = "" if memory.recomputed else LESS
            raise StudyError(
                f"{name}: a training step of {memory.images} images at a time needs "
                f"{memory.bytes() / 1e9:.0f} GB on each GPU, and `gpu_memory` is "
                f"{plan.study.gpu_memory:g} GB: {memory.remedy(limit)}{less}"
            )
