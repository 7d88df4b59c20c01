"""Statistics of association as functions of resampling weights.

Bootstrap resamples, jackknife samples and the sample itself are counts of how often each tokenizer
occurs. So every statistic here maps weights (B, n) to values (B, P), for P pairs of columns over
the same n tokenizers at once. Resamples in which a statistic is undefined give NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weighted = Callable[[Array], Array]
_NEGLIGIBLE = 1e-12  # of the variance: rounding error of a constant


@dataclass(frozen=True)
class Estimator:
    """A statistic of n tokenizers, for one or P pairs of columns, with its normal theory.

    Attributes:
        weighted: maps integer weights (B, n) to values (B, P); NaN where undefined.
        points: number n of tokenizers.
        distinct: resamples with fewer different tokenizers are degenerate by construction.
        z_variance: variance of ``atanh(value)`` under normality, one or (P,), infinite if n is
            too small; None if the statistic is not a correlation.
        step: half the distance from ±1 to the nearest other value of a rank statistic, one or (P,).
    """

    weighted: Weighted
    points: int
    distinct: int = 3
    z_variance: float | Array | None = None
    step: float | Array = 0.0

    @property
    def values(self) -> Array:
        """The statistic of the sample itself, (P,)."""
        return self.weighted(np.ones((1, self.points)))[0]

    @property
    def value(self) -> float:
        """The statistic of the sample itself, for one pair."""
        (value,) = self.values
        return float(value)


def columns(values: Array) -> Array:
    """Return values (n,) or (n, P) as float64 columns (n, P)."""
    values = np.asarray(values, dtype=np.float64)
    return values[:, None] if values.ndim == 1 else values


def standardise(values: Array) -> Array:
    """Return values (n,) or (n, P) with mean 0 and variance 1; zeros if constant."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return values
    centred = values - values.mean(axis=0)
    scale = np.sqrt((centred**2).mean(axis=0))
    largest = np.abs(values).max(axis=0)
    there = (scale > 1e-12 * largest) & (scale > 0)
    return np.where(there, centred / np.where(there, scale, 1.0), 0.0)


def pearson(x: Array, y: Array) -> Estimator:
    """Return Pearson's r, in [-1, 1]; Fisher's z has variance 1/(n - 3).

    Args:
        x: (n,) or (n, P) values. y: (n,), (n, 1) or (n, P) values.
    """
    n = len(x)
    x, y = standardise(columns(x)), standardise(columns(y))

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)
        mean_x, mean_y = weights @ x / total, weights @ y / total
        return _ratio(
            weights @ (x * y) / total - mean_x * mean_y,
            weights @ (x * x) / total - mean_x**2,
            weights @ (y * y) / total - mean_y**2,
        )

    return Estimator(weighted, n, z_variance=_inverse(n - 3))


def spearman(x: Array, y: Array) -> Estimator:
    """Return Spearman's rho, in [-1, 1], with mid-ranks recomputed in every resample.

    Its z has variance (1 + rho²/2)/(n - 3) (Bonett and Wright 2000). Arguments as in ``pearson``.
    """
    n = len(x)
    below_x, below_y = ([_below(c) for c in columns(v).T] for v in (x, y))

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)

        def ranks(below: Array) -> Array:
            # of the total, so that their weighted mean is 1/2 whatever the weights
            return weights @ below.T / total - 0.5

        def variance(rank: Array) -> Array:
            return np.einsum("bn,bn->b", weights * rank, rank)

        y_ranks = [ranks(below) for below in below_y]
        y_squares = [variance(rank) for rank in y_ranks]
        found = np.empty((len(weights), len(below_x)))
        for index, below in enumerate(below_x):
            rank, other = ranks(below), index if len(y_ranks) > 1 else 0
            cross = np.einsum("bn,bn->b", weights * rank, y_ranks[other])
            found[:, index] = _ratio(cross, variance(rank), y_squares[other])
        return found

    rho = np.nan_to_num(Estimator(weighted, n).values)
    variance = (1 + rho**2 / 2) * _inverse(n - 3)
    return Estimator(weighted, n, z_variance=variance, step=6 / (n * (n**2 - 1)))


def kendall(x: Array, y: Array) -> Estimator:
    """Return Kendall's tau-b, in [-1, 1]; its z has variance 0.437/(n - 4) (Fieller 1957).

    Arguments as in ``pearson``.
    """
    n = len(x)
    sign_x, sign_y = (pair_signs(columns(v)) for v in (x, y))
    products = np.concatenate([sign_x * sign_y, np.abs(sign_x), np.abs(sign_y)], axis=1)
    ends = np.cumsum([sign_x.shape[1], sign_x.shape[1]])

    def weighted(weights: Array) -> Array:
        return _ratio(*np.split(pair_sums(weights, products), ends, axis=1))

    return Estimator(weighted, n, z_variance=0.437 * _inverse(n - 4), step=2 / (n * (n - 1)))


def within(x: Array, y: Array, clusters: NDArray[np.int64]) -> Estimator:
    """Return Pearson's r after subtracting cluster means.

    Arguments as in ``pearson``; clusters: (n,) codes 0 ... G-1.
    """
    n = len(x)
    x, y = standardise(columns(x)), standardise(columns(y))
    members = np.eye(clusters.max() + 1)[clusters]  # (n, G)
    cluster_count = members.shape[1]

    def weighted(weights: Array) -> Array:
        total = np.maximum(weights @ members, 1.0)[:, None]  # (B, 1, G); empty ones add nothing

        def sums(values: Array) -> Array:  # (B, P, G)
            by_cluster = (values[:, :, None] * members[:, None, :]).reshape(n, -1)
            return (weights @ by_cluster).reshape(len(weights), -1, cluster_count)

        sum_x, sum_y = sums(x), sums(y)
        return _ratio(
            weights @ (x * y) - (sum_x * sum_y / total).sum(axis=2),
            weights @ (x * x) - (sum_x**2 / total).sum(axis=2),
            weights @ (y * y) - (sum_y**2 / total).sum(axis=2),
        )

    return Estimator(weighted, n, z_variance=_inverse(n - cluster_count - 2))


def partial(x: Array, y: Array, given: Array) -> Estimator:
    """Return Pearson's r of the residuals of x and y after regression on ``given``.

    Args:
        x: (n,) or (n, P) values. y: (n,), (n, 1) or (n, P) values. given: (n, k) covariates.

    Returns:
        The partial correlation, in [-1, 1]; z has variance 1/(n - k - 3). Covariates that are
        constant or redundant in a resample are dropped by the pseudo-inverse.
    """
    n, k = given.shape
    x, y, z = (standardise(columns(v)) for v in (x, y, given))

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)
        mean_x, mean_y, mean_z = (weights @ v / total for v in (x, y, z))

        def covariance(a: Array, b: Array, mean_a: Array, mean_b: Array) -> Array:
            products = (a[:, :, None] * b[:, None, :]).reshape(n, -1)
            second = (weights @ products / total).reshape(-1, a.shape[1], b.shape[1])
            return second - mean_a[:, :, None] * mean_b[:, None, :]

        zz = covariance(z, z, mean_z, mean_z)  # (B, k, k)
        zx, zy = covariance(z, x, mean_z, mean_x), covariance(z, y, mean_z, mean_y)  # (B, k, P)
        inverse = np.linalg.pinv(zz, rcond=1e-10, hermitian=True)
        fit_x, fit_y = inverse @ zx, inverse @ zy
        return _ratio(
            weights @ (x * y) / total - mean_x * mean_y - (zx * fit_y).sum(axis=1),
            weights @ (x * x) / total - mean_x**2 - (zx * fit_x).sum(axis=1),
            weights @ (y * y) / total - mean_y**2 - (zy * fit_y).sum(axis=1),
        )

    return Estimator(weighted, n, distinct=k + 3, z_variance=_inverse(n - k - 3))


def difference(first: Estimator, second: Estimator, signs: tuple[int, int] = (1, 1)) -> Estimator:
    """Return the difference of two statistics of the same tokenizers, each times its sign."""

    def weighted(weights: Array) -> Array:
        return signs[0] * first.weighted(weights) - signs[1] * second.weighted(weights)

    return Estimator(weighted, first.points, distinct=max(first.distinct, second.distinct))


def pair_signs(values: Array) -> Array:
    """Return the sign of the difference in every pair of points: (n, P) to (n(n-1)/2, P)."""
    first, second = np.triu_indices(len(values), 1)
    return np.sign(values[first] - values[second])


def pair_sums(weights: Array, of_pairs: Array) -> Array:
    """Return sums over pairs of points of w_i w_j times the value of the pair.

    Args:
        weights: (B, n). of_pairs: (n(n-1)/2, P), pairs in the order of ``pair_signs``.

    Returns:
        (B, P) sums; copies of one point do not form pairs.
    """
    n, start = weights.shape[1], 0
    sums = np.zeros((len(weights), of_pairs.shape[1]))
    for first in range(n - 1):
        stop = start + n - 1 - first
        sums += (weights[:, first, None] * weights[:, first + 1 :]) @ of_pairs[start:stop]
        start = stop
    return sums


def _inverse(count: int) -> float:
    return 1 / count if count > 0 else float("inf")


def _below(values: Array) -> Array:
    """Return 1 where j is smaller than i and 1/2 where they are equal: (n, n)."""
    column, row = values[:, None], values[None, :]
    return (row < column) + 0.5 * (row == column)


def _ratio(covariance: Array, first: Array, second: Array) -> Array:
    """Return covariance over the root of the product of variances, NaN where one vanishes."""
    there = (first > _NEGLIGIBLE) & (second > _NEGLIGIBLE)
    scale = np.sqrt(np.where(there, first * second, 1.0))
    return np.where(there, np.clip(covariance / scale, -1.0, 1.0), np.nan)
