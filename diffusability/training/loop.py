"""The one training loop: every network of the study is optimised by it.

A run is a list of phases (one optimizer and one loss each; a GAN has two) that are stepped in
turn. All randomness of a step is a function of seed and step, so a run that is stopped anywhere
and resumed from a checkpoint ends in the same bits as one that was not (on the CPU).
"""

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusability.errors import TrainingError, TrainingInterrupted
from diffusability.study.spec import TrainSpec
from diffusability.training.batches import BatchOrder, step_generator
from diffusability.training.checkpoint import (
    Checkpoint,
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from diffusability.training.ema import ExponentialMovingAverage
from diffusability.training.interruption import Interruption
from diffusability.training.progress import Progress
from diffusability.training.schedule import learning_rate

logger = logging.getLogger(__name__)
HISTORY_ROWS = 100  # at most that many rows of a loss curve
NAMED_INDICES = 8  # images of a bad batch that are named in the message


@dataclass(frozen=True)
class Losses:
    """What one phase computes: a scalar to descend, and named detached scalars to log."""

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        step: counted from zero.
        indices: (B,) int64 on the CPU, of the images.
        generator: of all randomness.
        upcoming: the indices of the next step, for reading ahead; None at the run's end.
    """

    step: int
    indices: Tensor
    generator: torch.Generator
    upcoming: Tensor | None = None

    @property
    def picked(self) -> Tensor:
        """The indices that a loss is the mean of: all of them."""
        return self.indices


@dataclass(frozen=True)
class Phase:
    """One optimizer and the loss that it descends; a loss of None skips the phase's step."""

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], Losses | None]


@dataclass(frozen=True)
class Run:
    """What is trained, on how many images, and where its state is kept.

    Attributes:
        name: for messages.
        spec: steps, batch, learning rate and the like.
        modules: everything with weights, by name; all of it is checkpointed.
        phases: stepped in order at every step.
        images: number of training images.
        seed: of data order and of each step's generator.
        state: folder of the checkpoints.
        averaged: name of the module that gets a moving average, if `spec.ema` is set.
        minutes: time after which the state is saved and the run interrupted.
        checkpoint_seconds: time between checkpoints.
    """

    name: str
    spec: TrainSpec
    modules: Mapping[str, nn.Module]
    phases: Sequence[Phase]
    images: int
    seed: int
    state: Path
    averaged: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    minutes: float | None = None
    checkpoint_seconds: float = 300.0


def train(run: Run) -> "Training":
    """Optimise to the last step, resuming from the run's state folder if it holds a checkpoint.

    Raises:
        TrainingInterrupted: time is up or a signal came; the state is saved.
        TrainingError: a loss is not finite; says step, learning rate and batch.
    """
    training = Training(run)
    training.resume()
    training.go()
    return training


class Training:
    """A run in progress: modules, optimizers, average, history and the step reached."""

    def __init__(self, run: Run) -> None:
        """Build optimizers and the average for freshly initialised modules."""
        self.run = run
        self.step = 0
        self.history: list[dict[str, float]] = []
        betas, decay = run.spec.betas, run.spec.weight_decay
        self._optimizers = {
            phase.name: torch.optim.AdamW(
                phase.parameters, run.spec.lr, betas, weight_decay=decay, fused=True
            )
            for phase in run.phases
        }
        averaged = run.averaged is not None and run.spec.ema is not None
        self._average = (
            ExponentialMovingAverage(run.modules[run.averaged or ""], run.spec.ema or 0.0)
            if averaged
            else None
        )
        self._order = BatchOrder(run.images, run.spec.batch, run.seed)
        self._sums: dict[str, float] = {}
        self._summed = 0

    @property
    def averaged(self) -> nn.Module:
        """The module to keep: the average where there is one, else the trained module."""
        if self._average is not None:
            return self._average.module
        return self.run.modules[self.run.averaged or next(iter(self.run.modules))]

    def go(self) -> None:
        """Take all remaining steps."""
        run = self.run
        progress = Progress(run.name, run.spec.steps, self.step)
        deadline = math.inf if run.minutes is None else time.monotonic() + 54.0 * run.minutes
        saved = time.monotonic()
        try:
            with Interruption() as interruption:
                while self.step < run.spec.steps:
                    progress.advance(self._take_step())
                    now = time.monotonic()
                    reason = interruption.reason or ("time is up" if now > deadline else None)
                    if reason and self.step < run.spec.steps:
                        self.save()
                        raise TrainingInterrupted(
                            f"{run.name}: {reason}; saved step {self.step} of {run.spec.steps} in "
                            f"{run.state}. The same command goes on from there"
                        )
                    if now - saved >= run.checkpoint_seconds:
                        self.save()
                        saved = now
        finally:
            progress.close()

    def _take_step(self) -> dict[str, float]:
        run, step = self.run, self.step
        rate = learning_rate(step, run.spec)
        generator = step_generator(run.seed, step, run.device)
        upcoming = self._order.indices(step + 1) if step + 1 < run.spec.steps else None
        batch = Batch(step, self._order.indices(step), generator, upcoming)
        row: dict[str, float] = {}
        for phase in run.phases:
            row |= self._descend(phase, batch, rate)
        if self._average is not None:
            self._average.update(run.modules[run.averaged or ""])
        self.step += 1
        self._record(row, rate)
        return row

    def _descend(self, phase: Phase, batch: Batch, rate: float) -> dict[str, float]:
        spec = self.run.spec
        optimizer = self._optimizers[phase.name]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.run.device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            losses = phase.loss(batch)
        if losses is None:
            return {}
        terms = {phase.name: losses.total, **losses.terms}
        names = list(terms)
        numbers = torch.stack([terms[name].detach().float() for name in names]).tolist()
        row = dict(zip(names, numbers, strict=True))
        if not all(math.isfinite(value) for value in numbers):
            self._stop_at_bad_loss(row, batch, rate)
        losses.total.backward()
        if spec.clip is not None:
            norm = nn.utils.clip_grad_norm_(phase.parameters, spec.clip)
            row[f"{phase.name}_gradient"] = norm.item()
        optimizer.step()
        return row

    def _stop_at_bad_loss(self, row: dict[str, float], batch: Batch, rate: float) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        indices = batch.indices.tolist()
        more = ", ..." if len(indices) > NAMED_INDICES else ""
        named = f"[{', '.join(map(str, indices[:NAMED_INDICES]))}{more}]"
        raise TrainingError(
            f"{self.run.name}: the loss is not finite at step {batch.step} (learning rate "
            f"{rate:.4g}, images {named}; {values}). No artifact was written. A lower train.lr, "
            "train.clip, or train.precision: fp32 may help"
        )

    def _record(self, row: dict[str, float], rate: float) -> None:
        """Add the step to the history: one row is the mean over an interval of steps."""
        for name, value in row.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._summed += 1
        interval = max(1, self.run.spec.steps // HISTORY_ROWS)
        if self.step % interval == 0 or self.step == self.run.spec.steps:
            means = {name: total / self._summed for name, total in self._sums.items()}
            self.history.append({"step": self.step, "learning_rate": rate, **means})
            self._sums, self._summed = {}, 0

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        tensors: dict[str, Tensor] = {}
        for name, module in self._all_modules().items():
            tensors |= {f"module.{name}.{k}": v for k, v in module.state_dict().items()}
        for name, optimizer in self._optimizers.items():
            tensors |= flatten_optimizer(optimizer, f"optimizer.{name}")
        values = {
            "history": self.history,
            "sums": self._sums,
            "summed": self._summed,
            "updates": self._average.updates if self._average else 0,
        }
        save_checkpoint(self.run.state, Checkpoint(self.step, tensors, values))

    def resume(self) -> None:
        """Load the newest checkpoint of the state folder, if there is one."""
        checkpoint = load_checkpoint(self.run.state)
        if checkpoint is None:
            return
        for name, module in self._all_modules().items():
            prefix = f"module.{name}."
            weights = {
                key.removeprefix(prefix): tensor
                for key, tensor in checkpoint.tensors.items()
                if key.startswith(prefix)
            }
            module.load_state_dict(weights)
        for name, optimizer in self._optimizers.items():
            restore_optimizer(optimizer, checkpoint.tensors, f"optimizer.{name}")
        self.step = checkpoint.step
        self.history = checkpoint.values["history"]
        self._sums, self._summed = checkpoint.values["sums"], checkpoint.values["summed"]
        if self._average is not None:
            self._average.updates = checkpoint.values["updates"]
        logger.info("%s: resumed at step %d of %d", self.run.name, self.step, self.run.spec.steps)

    def _all_modules(self) -> dict[str, nn.Module]:
        average = {"average": self._average.module} if self._average is not None else {}
        return {**self.run.modules, **average}

    def write_history(self, path: Path) -> None:
        """Write the loss curves as CSV; a phase that starts late leaves early cells empty."""
        columns = dict.fromkeys(name for row in self.history for name in row)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(self.history)
