"""Statistics of association as functions of resampling weights.

A bootstrap resample, a jackknife sample and the sample itself are all counts of how often each
tokenizer appears, so every statistic here maps weights (B, n) to values (B,). A resample in which
the statistic does not exist gives NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weighted = Callable[[Array], Array]
_NEGLIGIBLE = 1e-12  # of the variance: what rounding leaves of a constant


@dataclass(frozen=True)
class Estimator:
    """A statistic of n tokenizers and what normal theory says of its error.

    Attributes:
        weighted: maps integer weights (B, n) to values (B,); NaN where undefined.
        points: number n of tokenizers.
        distinct: resamples with fewer different tokenizers are degenerate by construction.
        z_variance: variance of ``atanh(value)`` under normality, infinite where n is too small;
            None for a statistic that is no correlation.
        step: half the distance from ±1 to the nearest other value that ranks can give.
    """

    weighted: Weighted
    points: int
    distinct: int = 3
    z_variance: float | None = None
    step: float = 0.0

    @property
    def value(self) -> float:
        """The statistic of the sample itself."""
        return float(self.weighted(np.ones((1, self.points)))[0])


def standardise(values: Array) -> Array:
    """Return values with mean 0 and variance 1; zeros where they are constant."""
    centred = np.asarray(values, dtype=np.float64) - np.mean(values)
    scale = float(np.sqrt(np.mean(centred**2)))
    largest = float(np.max(np.abs(values), initial=0.0))
    if scale <= 1e-12 * largest or scale == 0.0:
        return np.zeros_like(centred)
    return centred / scale


def pearson(x: Array, y: Array) -> Estimator:
    """Return Pearson's r, in [-1, 1]; Fisher's z has variance 1/(n - 3)."""
    n = len(x)
    x, y = standardise(x), standardise(y)

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1)
        mean_x, mean_y = weights @ x / total, weights @ y / total
        return _ratio(
            weights @ (x * y) / total - mean_x * mean_y,
            weights @ (x * x) / total - mean_x**2,
            weights @ (y * y) / total - mean_y**2,
        )

    return Estimator(weighted, n, z_variance=_inverse(n - 3))


def spearman(x: Array, y: Array) -> Estimator:
    """Return Spearman's rho, in [-1, 1], with mid-ranks taken anew in every resample.

    Its z has variance (1 + rho²/2)/(n - 3) (Bonett and Wright 2000).
    """
    n = len(x)
    below_x, below_y = _below(x), _below(y)

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)
        ranks = [weights @ below.T / total for below in (below_x, below_y)]  # (B, n) each
        x_rank, y_rank = (r - (weights * r).sum(axis=1, keepdims=True) / total for r in ranks)
        return _ratio(
            (weights * x_rank * y_rank).sum(axis=1),
            (weights * x_rank * x_rank).sum(axis=1),
            (weights * y_rank * y_rank).sum(axis=1),
        )

    rho = Estimator(weighted, n).value
    rho = 0.0 if np.isnan(rho) else rho
    variance = (1 + rho**2 / 2) * _inverse(n - 3)
    return Estimator(weighted, n, z_variance=variance, step=6 / (n * (n**2 - 1)))


def kendall(x: Array, y: Array) -> Estimator:
    """Return Kendall's tau-b, in [-1, 1]; its z has variance 0.437/(n - 4) (Fieller 1957)."""
    n = len(x)
    sign_x, sign_y = _signs(x), _signs(y)

    def weighted(weights: Array) -> Array:
        def pairs(signs: Array) -> Array:
            return ((weights @ signs) * weights).sum(axis=1)

        return _ratio(pairs(sign_x * sign_y), pairs(np.abs(sign_x)), pairs(np.abs(sign_y)))

    return Estimator(weighted, n, z_variance=0.437 * _inverse(n - 4), step=2 / (n * (n - 1)))


def within(x: Array, y: Array, clusters: NDArray[np.int64]) -> Estimator:
    """Return Pearson's r after the mean of its cluster is taken from every point."""
    n = len(x)
    x, y = standardise(x), standardise(y)
    members = np.eye(clusters.max() + 1)[clusters]  # (n, G)
    cluster_count = members.shape[1]

    def weighted(weights: Array) -> Array:
        total = np.maximum(weights @ members, 1.0)  # empty clusters add nothing below
        sum_x, sum_y = (weights * x) @ members, (weights * y) @ members
        return _ratio(
            weights @ (x * y) - (sum_x * sum_y / total).sum(axis=1),
            weights @ (x * x) - (sum_x**2 / total).sum(axis=1),
            weights @ (y * y) - (sum_y**2 / total).sum(axis=1),
        )

    return Estimator(weighted, n, z_variance=_inverse(n - cluster_count - 2))


def partial(x: Array, y: Array, given: Array) -> Estimator:
    """Return Pearson's r of what is left of x and y after regression on ``given``.

    Args:
        x: (n,) values. y: (n,) values. given: (n, k) covariates.

    Returns:
        The partial correlation, in [-1, 1]; z has variance 1/(n - k - 3). Covariates that are
        constant or redundant in a resample are left out of it by the pseudo-inverse.
    """
    n, k = given.shape
    columns = np.column_stack([standardise(c) for c in (x, y, *given.T)])
    products = np.einsum("ni,nj->nij", columns, columns).reshape(n, -1)

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1)[:, None]
        mean = weights @ columns / total
        second = (weights @ products / total).reshape(-1, k + 2, k + 2)
        cov = second - mean[:, :, None] * mean[:, None, :]
        cross = cov[:, 2:, :2]  # (B, k, 2)
        inverse = np.linalg.pinv(cov[:, 2:, 2:], rcond=1e-10, hermitian=True)
        left = cov[:, :2, :2] - np.swapaxes(cross, 1, 2) @ inverse @ cross
        return _ratio(left[:, 0, 1], left[:, 0, 0], left[:, 1, 1])

    return Estimator(weighted, n, distinct=k + 3, z_variance=_inverse(n - k - 3))


def difference(first: Estimator, second: Estimator, signs: tuple[int, int] = (1, 1)) -> Estimator:
    """Return the difference of two statistics of the same tokenizers, each times its sign."""

    def weighted(weights: Array) -> Array:
        return signs[0] * first.weighted(weights) - signs[1] * second.weighted(weights)

    return Estimator(weighted, first.points, distinct=max(first.distinct, second.distinct))


def _inverse(count: int) -> float:
    return 1 / count if count > 0 else float("inf")


def _below(values: Array) -> Array:
    """Return 1 where j is smaller than i and 1/2 where they are equal: (n, n)."""
    column, row = values[:, None], values[None, :]
    return (row < column) + 0.5 * (row == column)


def _signs(values: Array) -> Array:
    return np.sign(values[:, None] - values[None, :])


def _ratio(covariance: Array, first: Array, second: Array) -> Array:
    """Return covariance over the root of the product of variances, NaN where one vanishes."""
    there = (first > _NEGLIGIBLE) & (second > _NEGLIGIBLE)
    scale = np.sqrt(np.where(there, first * second, 1.0))
    return np.where(there, np.clip(covariance / scale, -1.0, 1.0), np.nan)
