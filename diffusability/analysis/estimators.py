"""Statistics of association of P pairs of columns over the same n tokenizers at once.

They take float64 columns (n, P), or (n,) where P is 1, and return (P,) values; NaN where undefined.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
FEWEST = 3  # tokenizers of a correlation
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


def pearson(x: Array, y: Array) -> Array:
    """Return Pearson's r, in [-1, 1]."""
    return _of_centred(standardise(columns(x)), standardise(columns(y)))


def spearman(x: Array, y: Array) -> Array:
    """Return Spearman's rho, in [-1, 1], with mid-ranks."""
    return pearson(stats.rankdata(x, axis=0), stats.rankdata(y, axis=0))


def within(x: Array, y: Array, clusters: NDArray[np.object_]) -> Array:
    """Return Pearson's r after subtracting the means of each of the clusters (n,)."""
    members = (clusters[:, None] == np.unique(clusters)).astype(float)  # (n, G)
    of_cluster = members / members.sum(axis=0)

    def centred(values: Array) -> Array:
        values = standardise(columns(values))
        return values - members @ (of_cluster.T @ values)

    return _of_centred(centred(x), centred(y))


def partial(x: Array, y: Array, given: Array) -> Array:
    """Return Pearson's r of the residuals of x and y after regression on ``given``, in [-1, 1]."""
    xy, xz, yz = pearson(x, y), pearson(x, given), pearson(y, given)
    return _ratio(xy - xz * yz, 1 - xz**2, 1 - yz**2)


def average(x: Array) -> Array:
    """Return the mean."""
    x = columns(x)
    return x.mean(axis=0) if len(x) else np.full(x.shape[1], np.nan)


def deviation(x: Array) -> Array:
    """Return the standard deviation, with n - 1."""
    x = columns(x)
    return x.std(axis=0, ddof=1) if len(x) > 1 else np.full(x.shape[1], np.nan)


def adjusted_r2(r2: Array, n: int, predictors: int) -> Array:
    """Return adjusted R² of least-squares fits to n tokenizers, at most 1; NaN of an exact fit."""
    if n < predictors + 2:
        return np.full_like(r2, np.nan)
    return 1 - (1 - r2) * (n - 1) / (n - predictors - 1)


def r2_of_two(x: Array, other: Array, y: Array) -> Array:
    """Return R² of the fits of y on x and another metric: what either leaves is a product."""
    return np.asarray(1 - (1 - pearson(x, y) ** 2) * (1 - partial(other, y, x) ** 2))


def holm(p: Array) -> Array:
    """Return p (n,) corrected by Holm, at most 1.

    As statsmodels' `multipletests`, which collects garbage in every call: that took a fifth of the
    time of all tables.
    """
    order, corrected = np.argsort(p), np.empty(len(p))
    stepped = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


def left_out_predictions(x: Array, y: Array, groups: NDArray[np.int64]) -> tuple[Array, bool]:
    """Predict each group by the least-squares fit, with its intercept, on all others.

    Args:
        x: (n, k) standardised. y: (n,). groups: (n,) from 0 without gaps.

    Returns:
        (n,) predictions, and whether every fit was determined.
    """
    design, predicted, determined = np.column_stack([np.ones(len(x)), x]), np.empty(len(x)), True
    for group in range(groups.max() + 1):
        own = groups == group
        coefficients, _, rank, _ = np.linalg.lstsq(design[~own], y[~own], rcond=1e-9)
        predicted[own] = design[own] @ coefficients
        determined = determined and int(rank) == design.shape[1]
    return predicted, determined


def _of_centred(x: Array, y: Array) -> Array:
    """Return r of columns whose mean is 0 and whose variance was 1."""
    n = max(len(x), 1)
    return _ratio((x * y).sum(axis=0) / n, (x**2).sum(axis=0) / n, (y**2).sum(axis=0) / n)


def _ratio(covariance: Array, first: Array, second: Array) -> Array:
    """Return covariance over the root of the product of variances, NaN where one vanishes."""
    there = (first > _NEGLIGIBLE) & (second > _NEGLIGIBLE)
    scale = np.sqrt(np.where(there, first * second, 1.0))
    return np.where(there, np.clip(covariance / scale, -1.0, 1.0), np.nan)
