"""Loss curves of a training: read from the device in one transfer for several steps."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusability.study.core.spec import TrainSpec

HISTORY_ROWS = 100  # maximum rows of a loss curve
READ_EVERY = 16  # steps of a GPU whose values are read together; reading waits for the GPU
GRADIENT = "gradient"

Refusal = Callable[[str, int, float, Mapping[str, float]], None]


def steps_per_reading(device: torch.device, parts: int) -> int:
    """Return after how many steps the host waits for the device to read its values.

    Args:
        device: of the training. A CPU is never ahead, so every step is read.
        parts: that a step computes one after the other; long steps are read more often.
    """
    return max(1, READ_EVERY // parts) if device.type == "cuda" else 1


@dataclass(frozen=True)
class PhaseValues:
    """What one phase of a step computed, still on the device.

    Attributes:
        phase: its name.
        names: of the terms; the first is that of the loss.
        values: (K + 1,) float64 means over the batch, and the norm of the gradient.
        clipped: whether the norm belongs into the curves.
    """

    phase: str
    names: Sequence[str]
    values: Tensor
    clipped: bool

    @property
    def bad(self) -> Tensor:
        """Whether a value is not finite: a float32 scalar, 1 or 0, on the device."""
        return (~self.values.isfinite().all()).float()


class History:
    """Rows of a loss curve: each is the mean over an interval of steps.

    Of a value that not every step has, as of a phase that starts late, it is the mean over those
    that have it.
    """

    def __init__(self, spec: TrainSpec) -> None:
        self._steps = spec.steps
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}  # of the interval that has begun
        self._counts: dict[str, int] = {}  # of the steps in each sum
        self._unread: list[tuple[int, float, list[PhaseValues]]] = []

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes, as JSON values."""
        return {"history": self.rows, "sums": self._sums, "summed": self._counts}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; in older ones `summed` is one number for all sums."""
        self.rows, self._sums, summed = (values[name] for name in ("history", "sums", "summed"))
        self._counts = dict.fromkeys(self._sums, summed) if isinstance(summed, int) else summed

    def add(self, step: int, rate: float, phases: list[PhaseValues]) -> None:
        """Note what a step computed with a learning rate, without reading it."""
        self._unread.append((step, rate, phases))

    def read(self, refuse: Refusal) -> dict[str, float] | None:
        """Read all values that were noted, and return those of the last step, if there are any.

        Args:
            refuse: raises an error; called with what is not finite ("loss" or "gradient"), step,
                learning rate and the values of the phase.
        """
        if not self._unread:
            return None
        numbers = _read_together([p.values for _, _, phases in self._unread for p in phases])
        row: dict[str, float] = {}
        for step, rate, phases in self._unread:
            row = {}
            for phase in phases:
                *means, norm = next(numbers)
                own = dict(zip(phase.names, means, strict=True))
                if not all(map(math.isfinite, means)):
                    refuse("loss", step, rate, own)
                if not math.isfinite(norm):
                    refuse(GRADIENT, step, rate, own)
                row |= own
                if phase.clipped:
                    row[f"{phase.phase}_{GRADIENT}"] = norm
            self._record(step + 1, rate, row)
        self._unread = []
        return row

    def _record(self, done: int, rate: float, row: Mapping[str, float]) -> None:
        """Add the values of a step, after which `done` steps are done."""
        for name, value in row.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if done % max(1, self._steps // HISTORY_ROWS) == 0 or done == self._steps:
            means = {name: total / self._counts[name] for name, total in self._sums.items()}
            self.rows.append({"step": done, "learning_rate": rate, **means})
            self._sums, self._counts = {}, {}


def _read_together(tensors: Sequence[Tensor]) -> Iterator[list[float]]:
    """Yield the numbers of each (k,) tensor; the device is waited for once."""
    if tensors:
        numbers = iter(torch.cat(list(tensors)).tolist())
        for tensor in tensors:
            yield list(islice(numbers, len(tensor)))


def write_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write rows of loss curves as CSV; a phase that starts late leaves early cells empty."""
    columns = dict.fromkeys(name for row in history for name in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(history)
