"""Permutation p-values: over all tokenizers, and only within clusters."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from diffusability.analysis.estimators import Array, standardise


def pairing_p(x: Array, y: Array, *, rng: np.random.Generator, resamples: int = 9999) -> float:
    """Return the two-sided p of Pearson's r when any metric may go with any target.

    Args:
        x: (n,) values (ranks give the p of Spearman's rho). y: (n,) values.
        rng: source of the permutations; unused where all n! are tried.
        resamples: permutations; all of them where there are no more.

    Returns:
        p in (0, 1], twice the smaller tail; NaN where r does not exist.
    """
    x, y = standardise(x), standardise(y)
    if len(x) < 3 or not x.any() or not y.any():
        return math.nan

    def statistic(permuted: Array, axis: int = -1) -> Array:
        return np.moveaxis(permuted, axis, -1) @ y

    result = stats.permutation_test(
        (x,),
        statistic,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=resamples,
        rng=rng,
    )
    return float(result.pvalue)


def within_p(
    x: Array,
    y: Array,
    clusters: NDArray[np.int64],
    *,
    rng: np.random.Generator,
    resamples: int = 9999,
) -> tuple[float, float]:
    """Return the two-sided p of the within-cluster r when tokenizers swap inside clusters only.

    Args:
        x: (n,) values. y: (n,) values. clusters: (n,) codes 0 ... G-1.
        rng: source of the permutations. resamples: permutations drawn.

    Returns:
        p in (0, 1] of |r|, counting the sample itself, and the smallest p that the cluster sizes
        allow; NaN where no cluster varies in both.
    """
    sizes = np.bincount(clusters)
    smallest = math.exp(-sum(math.lgamma(size + 1) for size in sizes))
    mean_x, mean_y = (np.bincount(clusters, v) / np.maximum(sizes, 1) for v in (x, y))
    squares = [float(np.sum((v - v.mean()) ** 2)) for v in (x, y)]
    x, y = x - mean_x[clusters], y - mean_y[clusters]
    if any(v @ v <= 1e-12 * whole for v, whole in zip((x, y), squares, strict=True)):
        return math.nan, smallest
    negligible = 1e-12 * math.sqrt(float(x @ x) * float(y @ y))
    permuted = np.repeat(x[None, :], resamples, axis=0)
    for code in range(len(sizes)):
        members = np.flatnonzero(clusters == code)
        permuted[:, members] = rng.permuted(permuted[:, members], axis=1)
    extreme = np.abs(permuted @ y) >= abs(float(x @ y)) - negligible
    return (1 + int(extreme.sum())) / (resamples + 1), smallest


def partial_p(r: float, n: int, covariates: int) -> float:
    """Return the two-sided p of a partial correlation: Student's t, n - 2 - k degrees of freedom.

    Args:
        r: partial correlation in [-1, 1]. n: tokenizers. covariates: number k held fixed.

    Returns:
        p in [0, 1]; NaN where there is no degree of freedom.
    """
    degrees = n - 2 - covariates
    if degrees < 1 or math.isnan(r):
        return math.nan
    if abs(r) >= 1:
        return 0.0
    t = r * math.sqrt(degrees / (1 - r * r))
    return float(2 * stats.t.sf(abs(t), degrees))
