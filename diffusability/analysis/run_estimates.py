"""Means over a few runs of one thing, with a reach that knows how far training moves them.

Three runs say little about their own spread, so the spread is pooled over everything that was run
more than once, which is also what a single run is given.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LOOKS = 3.0  # standard errors over data: a claim about a curve looks at many noise levels


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

    def times(self, factor: float) -> "Ranged":
        """Return a multiple."""
        return Ranged(factor * self.value, abs(factor) * self.reach)


def estimates(
    runs: Mapping[Hashable, Sequence[tuple[float, float]]],
    looks: float = LOOKS,
    *,
    trained: bool = True,
) -> dict[Hashable, Ranged]:
    """Return the mean of each group of runs with its reach.

    Args:
        runs: by group, value and standard error over data of every run (NaN: none is known).
        looks: standard errors over data on either side.
        trained: whether what was run was trained; then a second run would differ.

    Returns:
        Means. The reach joins the mean error over data, of which runs share theirs, with Student's
        quantile times the pooled standard deviation of runs over the root of their number. It is
        NaN where nothing trained was run twice, because the spread of training is then unknown,
        and where no error is known at all.
    """
    values = {key: np.array([value for value, _ in group]) for key, group in runs.items()}
    freedom = sum(len(group) - 1 for group in values.values())
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in values.values())
    scatter = 0.0
    if freedom:
        scatter = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(squares / freedom)
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
