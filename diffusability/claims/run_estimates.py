"""Means over a few runs, with intervals that include the variation between trainings.

Three runs determine their own spread poorly, so the spread is pooled over everything that was run
more than once. The pooled spread also applies to single runs.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from diffusability.fisher.information import log_weights

LOOKS = 3.0  # standard errors: a claim about a curve looks at many noise levels


@dataclass(frozen=True)
class Ranged:
    """A number and the half-width of its interval; independent ones add in quadrature."""

    value: float
    reach: float

    def __sub__(self, other: "Ranged") -> "Ranged":
        return Ranged(self.value - other.value, math.hypot(self.reach, other.reach))

    def __abs__(self) -> "Ranged":
        return Ranged(abs(self.value), self.reach)

    def exp(self) -> "Ranged":
        """Return the exponential, to first order."""
        return Ranged(math.exp(self.value), math.exp(self.value) * self.reach)

    def log(self) -> "Ranged":
        """Return the natural logarithm, to first order; NaN if undefined."""
        if not self.value > 0:
            return Ranged(math.nan, math.nan)
        return Ranged(math.log(self.value), self.reach / self.value)

    def times(self, factor: float) -> "Ranged":
        """Return a multiple of the estimate."""
        return Ranged(factor * self.value, abs(factor) * self.reach)

    def row(self, statistic: str, space: str, where: str = "", **more: object) -> dict[str, Any]:
        """Return a row of a table of findings; ``where`` says at what the number was taken."""
        ends = {"value": self.value, "low": self.value - self.reach}
        ends["high"] = self.value + self.reach
        metric = ", ".join(filter(None, (space, where)))
        return {"statistic": statistic, "metric": metric, "space": space, **ends, **more}


def mean_of(values: Sequence[Ranged], weights: Sequence[float] = ()) -> Ranged:
    """Return the mean; reaches add, because values at different noise share their images."""
    weights = weights or [1 / len(values)] * len(values)
    pairs = list(zip(weights, values, strict=True))
    return Ranged(sum(w * x.value for w, x in pairs), sum(w * x.reach for w, x in pairs))


def wholes(distances: Mapping[float, Ranged]) -> dict[str, Ranged]:
    """Return two distances of whole curves, from distances by noise variance; none of no curve."""
    if not distances:
        return {}
    grid = sorted(distances)
    values = [distances[v] for v in grid]
    supremum = max(values, key=lambda at: at.value)
    return {"supremum": supremum, "mean over log v": mean_of(values, log_weights(grid))}


def estimates(
    runs: Mapping[Hashable, Sequence[tuple[float, float]]],
    looks: float = LOOKS,
    *,
    trained: bool = True,
) -> dict[Hashable, Ranged]:
    """Return the mean of each group of runs with the half-width of its interval.

    Args:
        runs: by group, value and standard error over data of every run (NaN: none is known).
        looks: half-width in standard errors, for normal errors.
        trained: whether the runs are trainings, which differ when repeated.

    Returns:
        Means. The half-width combines ``looks`` times the mean error over data, which runs share,
        with the pooled standard deviation of runs over the root of their number, times Student's
        quantile of the level that ``looks`` has of a normal distribution. It is
        NaN if no training was repeated, because its spread is then unknown, or if no error is
        known.
    """
    values = {key: np.array([value for value, _ in group]) for key, group in runs.items()}
    freedom = sum(len(group) - 1 for group in values.values())
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in values.values())
    scatter = 0.0
    if freedom:
        wide = float(stats.t.isf(stats.norm.sf(looks), freedom))
        scatter = wide * math.sqrt(squares / freedom)
    found = {}
    for key, group in runs.items():
        known = [error for _, error in group if not math.isnan(error)]
        over_runs = scatter / math.sqrt(len(group))
        if not freedom and (trained or not known):
            reach = math.nan
        else:
            reach = math.hypot(looks * float(np.mean(known)) if known else 0.0, over_runs)
        found[key] = Ranged(float(values[key].mean()), reach)
    return found
