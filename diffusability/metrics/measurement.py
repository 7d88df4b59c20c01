"""The result type of every metric: a number, its uncertainty, and what is needed to read it."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from diffusability.errors import MeasurementError


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Attributes:
        metric: name of the quantity, dotted and lower case, for example ``velocity.viv``.
        value: the number; NaN is refused; a metric that does not apply has no measurement.
        stderr: standard error of ``value`` in its own unit, or None where none is defined.
        n: number of independent units (images, classes, repeats) behind ``value``.
        unit: physical or statistical unit, ``1`` for a pure number.
        higher_is_better: direction in which the quantity is expected to help diffusion;
            None where neither direction is claimed.
        options: every choice that changes the number, as plain JSON values.
        flags: short statements that a reader of ``value`` must know (``"rank-deficient"``).
    """

    metric: str
    value: float
    stderr: float | None
    n: int
    unit: str = "1"
    higher_is_better: bool | None = None
    options: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse NaN, infinite values and invalid standard errors."""
        if not math.isfinite(self.value):
            raise MeasurementError(f"{self.metric}: the value is {self.value}, not a number")
        if self.stderr is not None and not (math.isfinite(self.stderr) and self.stderr >= 0):
            raise MeasurementError(f"{self.metric}: the standard error is {self.stderr}")

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain JSON values."""
        return asdict(self) | {"flags": list(self.flags)}


def flagged(measurements: Iterable[Measurement], *flags: str) -> list[Measurement]:
    """Return measurements with more flags."""
    return [replace(m, flags=(*m.flags, *flags)) for m in measurements]
