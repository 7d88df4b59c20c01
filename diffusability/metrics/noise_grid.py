"""Means of a curve over the logarithm of the noise variance."""

import math
from collections.abc import Sequence
from itertools import pairwise

from diffusability.errors import MeasurementError


def check_variances(v: Sequence[float]) -> None:
    """Refuse noise variances that are not positive and increasing.

    Raises:
        MeasurementError: naming them.
    """
    if not v or any(a >= b for a, b in pairwise((0.0, *v))):
        raise MeasurementError(f"noise variances must be positive and increase, got {list(v)}")


def log_weights(v: Sequence[float]) -> list[float]:
    """Return the weights, of sum 1, of a mean over log v by the trapezoid rule.

    Args:
        v: increasing noise variances; a single one has weight 1.
    """
    if len(v) == 1:
        return [1.0]
    whole = math.log(v[-1] / v[0])
    before, after = (v[0], *v[:-1]), (*v[1:], v[-1])
    return [math.log(b / a) / (2 * whole) for a, b in zip(before, after, strict=True)]
