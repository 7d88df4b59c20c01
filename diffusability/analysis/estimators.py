"""Statistics of association as functions of weights of the tokenizers.

The sample itself and the sample without one tokenizer or cluster are rows of weights 0 and 1. So
every statistic here maps weights (B, n) to values (B, P), for P pairs of columns over the same n
tokenizers at once; NaN where it is undefined.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Weighted = Callable[[Array], Array]
_NEGLIGIBLE = 1e-12  # of the variance: rounding error of a constant


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


def whole(statistic: Weighted, n: int) -> Array:
    """Return a statistic of all n tokenizers, (P,)."""
    return statistic(np.ones((1, n)))[0]


def pearson(x: Array, y: Array) -> Weighted:
    """Return Pearson's r, in [-1, 1].

    Args:
        x: (n,) or (n, P) values. y: (n,), (n, 1) or (n, P) values.
    """
    x, y = standardise(columns(x)), standardise(columns(y))

    def weighted(weights: Array) -> Array:
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
        mean_x, mean_y = weights @ x / total, weights @ y / total
        return _ratio(
            weights @ (x * y) / total - mean_x * mean_y,
            weights @ (x * x) / total - mean_x**2,
            weights @ (y * y) / total - mean_y**2,
        )

    return weighted


def spearman(x: Array, y: Array) -> Weighted:
    """Return Spearman's rho, in [-1, 1], with mid-ranks of the tokenizers that have weight.

    Arguments as in ``pearson``; weights are 0 or 1.
    """
    x, y = columns(x), columns(y)

    def weighted(weights: Array) -> Array:
        found = []
        for row in weights:
            kept = row > 0
            ranks = (stats.rankdata(values[kept], axis=0) for values in (x, y))
            found.append(pearson(*ranks)(np.ones((1, int(kept.sum()))))[0])
        return np.array(found)

    return weighted


def within(x: Array, y: Array, clusters: NDArray[np.int64]) -> Weighted:
    """Return Pearson's r after subtracting cluster means.

    Arguments as in ``pearson``; clusters: (n,) codes 0 ... G-1.
    """
    n = len(x)
    x, y = standardise(columns(x)), standardise(columns(y))
    members = np.eye(clusters.max() + 1)[clusters]  # (n, G)
    count = members.shape[1]

    def weighted(weights: Array) -> Array:
        total = np.maximum(weights @ members, 1.0)[:, None]  # (B, 1, G); empty ones add nothing

        def sums(values: Array) -> Array:  # (B, P, G)
            by_cluster = (values[:, :, None] * members[:, None, :]).reshape(n, -1)
            return (weights @ by_cluster).reshape(len(weights), -1, count)

        sum_x, sum_y = sums(x), sums(y)
        return _ratio(
            weights @ (x * y) - (sum_x * sum_y / total).sum(axis=2),
            weights @ (x * x) - (sum_x**2 / total).sum(axis=2),
            weights @ (y * y) - (sum_y**2 / total).sum(axis=2),
        )

    return weighted


def partial(x: Array, y: Array, given: Array) -> Weighted:
    """Return Pearson's r of the residuals of x and y after regression on ``given``, in [-1, 1].

    Args:
        x: (n,) or (n, P) values. y: (n,), (n, 1) or (n, P) values.
        given: (n,) or (n, P) one covariate of all pairs, or of each.
    """
    rxy, rxz, ryz = pearson(x, y), pearson(x, given), pearson(y, given)

    def weighted(weights: Array) -> Array:
        xy, xz, yz = rxy(weights), rxz(weights), ryz(weights)
        return _ratio(xy - xz * yz, 1 - xz**2 + 0 * xy, 1 - yz**2 + 0 * xy)

    return weighted


def average(x: Array) -> Weighted:
    """Return the mean of x (n,) or (n, P)."""
    x = columns(x)

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)
        return np.where(total > 0, weights @ x / np.maximum(total, 1.0), np.nan)

    return weighted


def deviation(x: Array) -> Weighted:
    """Return the standard deviation of x (n,) or (n, P), with n - 1."""
    mean, square = average(x), average(columns(x) ** 2)

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)
        variance = np.maximum(square(weights) - mean(weights) ** 2, 0.0)
        return np.sqrt(variance * total / np.maximum(total - 1, 1))

    return weighted


def adjusted_r2(x: Array, y: Array) -> Weighted:
    """Return adjusted R² of the least-squares fit of y (n,) on x (n, k), at most 1; P is 1."""

    def weighted(weights: Array) -> Array:
        found = np.full((len(weights), 1), np.nan)
        for index, row in enumerate(weights):
            kept = row > 0
            n, k = int(kept.sum()), x.shape[1]
            design = np.column_stack([np.ones(n), x[kept]])
            total = float(((y[kept] - y[kept].mean()) ** 2).sum()) if n else 0.0
            if n < k + 3 or total <= 0:
                continue
            rest = y[kept] - design @ np.linalg.lstsq(design, y[kept], rcond=None)[0]
            found[index] = 1 - float(rest @ rest) / total * (n - 1) / (n - k - 1)
        return found

    return weighted


def _ratio(covariance: Array, first: Array, second: Array) -> Array:
    """Return covariance over the root of the product of variances, NaN where one vanishes."""
    there = (first > _NEGLIGIBLE) & (second > _NEGLIGIBLE)
    scale = np.sqrt(np.where(there, first * second, 1.0))
    return np.where(there, np.clip(covariance / scale, -1.0, 1.0), np.nan)
