"""What a training run consists of: phases with their losses, batches, and how they are cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusability.errors import TrainingError
from diffusability.study.core.spec import CHECKPOINT_SECONDS, TrainSpec
from diffusability.training.distributed import Processes


def weights_name(step: int | None = None) -> str:
    """Return the name of the file with the averaged weights of a step, by default the last."""
    return "model.safetensors" if step is None else f"model-{step:06d}.safetensors"


@dataclass(frozen=True)
class Losses:
    """Result of one phase: a scalar to minimise, and named detached scalars to log."""

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The images of one step, and the part that a loss is computed on.

    Attributes:
        step: counted from zero.
        indices: (B,) int64 on the CPU, of the whole batch.
        generator: of all randomness. If the run cuts its batches into slices of one loss, it is at
            the same state for every part: draw for the whole batch and keep the slice `part`. If
            parts have losses of their own (`Run.part`), each has its own generator.
        part: slice of the batch that this loss averages over.
        upcoming: (b,) `picked` of the next call, for reading ahead; None at the end of the run.
    """

    step: int
    indices: Tensor
    generator: torch.Generator
    part: slice = field(default_factory=lambda: slice(None))
    upcoming: Tensor | None = None

    @property
    def picked(self) -> Tensor:
        """The (b,) indices of this part."""
        return self.indices[self.part]


@dataclass(frozen=True)
class Phase:
    """One optimizer and the loss that it minimises, from step `starts` on.

    `divisible` says that the loss is a mean over images with random numbers drawn for the whole
    batch: only then may `train.accumulation` cut the batch. `complete` says that every step uses
    all parameters, which spares several processes the search for those that it does not use.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], Losses]
    divisible: bool = False
    complete: bool = False
    starts: int = 0


@dataclass(frozen=True)
class Run:
    """Definition of a training run: modules, phases, data order and state folder.

    Attributes:
        name: for messages.
        spec: steps, batch, learning rate and the like.
        modules: everything with weights, by name; all of it is checkpointed.
        phases: stepped in order at every step.
        images: number of training images.
        part: images per part with a loss of its own; None: the batch has one loss.
        versions: number of versions of every image; one is drawn each time.
        seed: of data order and of each step's generator.
        state: folder of the checkpoints.
        averaged: name of the module that gets a moving average, if `spec.ema` is set.
        snapshots: steps after which the averaged weights are written to `state`, as
            `weights_name(step)`.
        minutes: time after which the state is saved and the run interrupted.
        checkpoint_seconds: least time between checkpoints.
        checkpoint_share: of the time that writing them may take; on a slow disk they become rarer.
        processes: processes that share every batch.
    """

    name: str
    spec: TrainSpec
    modules: Mapping[str, nn.Module]
    phases: Sequence[Phase]
    images: int
    seed: int
    state: Path
    averaged: str | None = None
    snapshots: Sequence[int] = ()
    part: int | None = None
    versions: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    minutes: float | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    checkpoint_share: float = 1 / 50
    processes: Processes = field(default_factory=Processes)

    @property
    def parts(self) -> int:
        """Parts of a batch that one process computes one after the other."""
        if self.part is None:
            return self.spec.accumulation
        return self.spec.batch // (self.part * self.processes.count)


def check_division(run: Run) -> None:
    """Refuse to cut a batch whose loss is not a mean over images, or into unequal parts.

    Raises:
        TrainingError: with the key that mends it.
    """
    if run.part is not None:
        if run.spec.batch % (run.part * run.processes.count):
            raise TrainingError(
                f"{run.name}: train.batch {run.spec.batch} cannot be cut into parts of {run.part} "
                f"images, equally many for each of {run.processes.count} processes"
            )
        return
    parts = run.spec.accumulation * run.processes.count
    whole = [phase.name for phase in run.phases if not phase.divisible]
    if parts > 1 and whole:
        raise TrainingError(
            f"{run.name}: the loss {whole[0]} needs its whole batch at once; train it in one "
            "process with train.accumulation: 1"
        )
    if run.spec.batch % parts:
        raise TrainingError(
            f"{run.name}: train.batch {run.spec.batch} cannot be cut into {parts} equal parts "
            f"({run.processes.count} processes x train.accumulation {run.spec.accumulation})"
        )
