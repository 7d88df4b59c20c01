"""P-values: permutation tests, partial and dependent correlations, clustered coefficients."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from diffusability.analysis.estimators import Array, columns, standardise
from diffusability.analysis.intervals import keyed_generator

_TIE = 1e-12  # relative to the largest possible statistic: below it, differences are rounding


@dataclass(frozen=True)
class Permutations:
    """Orders of n points.

    Attributes:
        index: (R, n) permutations. exact: whether these are all permutations.
    """

    index: NDArray[np.int64]
    exact: bool


def permute(n: int, rng: np.random.Generator, resamples: int = 9999) -> Permutations:
    """Return all orders of n points if at most ``resamples``, else that many random ones."""
    if n < 13 and math.factorial(n) <= resamples:
        return Permutations(np.array(list(permutations(range(n)))), exact=True)
    return Permutations(rng.permuted(np.tile(np.arange(n), (resamples, 1)), axis=1), exact=False)


def permute_within(
    clusters: NDArray[np.int64], rng: np.random.Generator, resamples: int = 9999
) -> Permutations:
    """Return orders that permute points only within their cluster (codes (n,))."""
    index = np.tile(np.arange(len(clusters)), (resamples, 1))
    for code in np.unique(clusters):
        members = np.flatnonzero(clusters == code)
        index[:, members] = rng.permuted(index[:, members], axis=1)
    return Permutations(index, exact=False)


@lru_cache(maxsize=8)
def shared_permutations(seed: int, n: int, resamples: int) -> Permutations:
    """Return the permutations shared by all statistics of n tokenizers."""
    return permute(n, keyed_generator(seed, "pairing", n), resamples)


def shared_within(seed: int, clusters: NDArray[np.int64], resamples: int) -> Permutations:
    """Return the permutations shared by all statistics over the same clusters."""
    return _shared_within(seed, tuple(clusters.tolist()), resamples)


@lru_cache(maxsize=8)
def _shared_within(seed: int, clusters: tuple[int, ...], resamples: int) -> Permutations:
    rng = keyed_generator(seed, "within", *clusters)
    return permute_within(np.array(clusters), rng, resamples)


def pairing_p(x: Array, y: Array, orders: Permutations) -> Array:
    """Return the two-sided p of Pearson's r under permutation of all tokenizers.

    Args:
        x: (n,) or (n, P) values (ranks give the p of Spearman's rho).
        y: (n,), (n, 1) or (n, P) values.
        orders: of n points.

    Returns:
        (P,) p in (0, 1], twice the smaller tail, which includes the sample itself if not all orders
        are used; NaN if r is undefined.
    """
    x, y = standardise(columns(x)), standardise(columns(y))
    n, count = len(x), len(orders.index)
    observed, null = (x * y).sum(axis=0), _permuted_sums(x, y, orders)
    own = 0 if orders.exact else 1
    tails = [
        (np.sum(side, axis=0) + own) / (count + own)
        for side in (null <= observed + _TIE * n, null >= observed - _TIE * n)
    ]
    p = np.minimum(1.0, 2 * np.minimum(*tails))
    return np.where((n > 2) & x.any(axis=0) & y.any(axis=0), p, np.nan)


def within_p(
    x: Array, y: Array, clusters: NDArray[np.int64], orders: Permutations
) -> tuple[Array, float]:
    """Return the two-sided p of the within-cluster r under permutation within clusters.

    Args:
        x: (n,) or (n, P) values. y: (n,), (n, 1) or (n, P) values.
        clusters: (n,) codes 0 ... G-1. orders: of points inside those clusters.

    Returns:
        (P,) p in (0, 1] of |r|, including the sample itself, and the smallest p that the cluster
        sizes allow; NaN if no cluster varies in both.
    """
    sizes = np.bincount(clusters)
    smallest = math.exp(-sum(math.lgamma(size + 1) for size in sizes))
    members = np.eye(len(sizes))[clusters]  # (n, G)
    centred, varies = [], []
    for values in (columns(x), columns(y)):
        left = values - members @ (members.T @ values / np.maximum(sizes, 1)[:, None])
        whole = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
        centred.append(left)
        varies.append((left**2).sum(axis=0) > 1e-12 * whole)
    left_x, left_y = centred
    observed = (left_x * left_y).sum(axis=0)
    largest = np.sqrt((left_x**2).sum(axis=0) * (left_y**2).sum(axis=0))
    extreme = np.abs(_permuted_sums(left_x, left_y, orders)) >= np.abs(observed) - _TIE * largest
    p = (1 + extreme.sum(axis=0)) / (len(orders.index) + 1)
    return np.where(varies[0] & varies[1], p, np.nan), smallest


def _permuted_sums(x: Array, y: Array, orders: Permutations) -> Array:
    """Return the sums of products of x (n, P) and y (n, 1 or P) in every order: (R, P)."""
    if y.shape[1] == 1:
        return y[:, 0][orders.index] @ x
    return np.column_stack([y[:, k][orders.index] @ x[:, k] for k in range(x.shape[1])])


def partial_p(r: float, n: int, covariates: int) -> float:
    """Return the two-sided p of a partial correlation: Student's t, n - 2 - k degrees of freedom.

    Args:
        r: partial correlation in [-1, 1]. n: tokenizers. covariates: number k held fixed.

    Returns:
        p in [0, 1]; NaN without degrees of freedom.
    """
    degrees = n - 2 - covariates
    if degrees < 1 or math.isnan(r):
        return math.nan
    if abs(r) >= 1:
        return 0.0
    t = r * math.sqrt(degrees / (1 - r * r))
    return float(2 * stats.t.sf(abs(t), degrees))


def williams(r1: float, r2: float, r12: float, n: int) -> tuple[float, float]:
    """Return Williams' t of two correlations that share a variable, and its two-sided p.

    Args:
        r1: r of the shared variable with the first. r2: with the second. r12: between those two.
        n: points; the test has n - 3 degrees of freedom (Steiger 1980, Eq. 7).

    Returns:
        t (positive: the first is larger) and p; NaN if the test is undefined.
    """
    determinant = 1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12
    if n < 4 or math.isnan(determinant):
        return math.nan, math.nan
    mean = (r1 + r2) / 2
    below = 2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - r12) ** 3
    if below <= 1e-15:
        return math.nan, math.nan
    t = (r1 - r2) * math.sqrt((n - 1) * (1 + r12) / below)
    return t, float(2 * stats.t.sf(abs(t), n - 3))


def wild_cluster_p(
    design: Array,
    y: Array,
    clusters: NDArray[np.int64],
    column: int,
    *,
    rng: np.random.Generator,
    resamples: int = 9999,
) -> float:
    """Return the two-sided p of one coefficient, with the null imposed.

    Cluster-robust t-tests reject far too often below about 40 clusters; here residuals of the
    fit without the coefficient change sign cluster by cluster (Cameron, Gelbach and Miller 2008).

    Args:
        design: (n, k) columns, constant included. y: (n,) target.
        clusters: (n,) codes 0 ... G-1. column: of the coefficient that is tested.
        rng: source of the signs; unused if all 2^G are used.
        resamples: number of sign patterns, at most 2^G.

    Returns:
        p in [2^(1-G), 1]; NaN if the design lacks full rank or there is only one cluster.
    """
    count = int(clusters.max()) + 1
    if count < 2 or np.linalg.matrix_rank(design) < design.shape[1]:
        return math.nan
    rest = np.delete(design, column, axis=1)
    fitted = rest @ np.linalg.lstsq(rest, y, rcond=None)[0]
    if 2**count <= resamples:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))  # (B, G)
    else:
        signs = rng.choice((1.0, -1.0), size=(resamples, count))
        signs[0] = 1.0  # the sample itself
    targets = fitted + signs[:, clusters] * (y - fitted)  # (B, n)
    t = np.abs(_robust_t(design, targets, clusters, column))
    observed = abs(float(_robust_t(design, y[None], clusters, column)[0]))
    if not math.isfinite(observed):
        return math.nan
    return float(np.mean(t >= observed * (1 - 1e-9)))


def _robust_t(design: Array, targets: Array, clusters: NDArray[np.int64], column: int) -> Array:
    """Return the cluster-robust t of one coefficient for each row of targets (B, n), up to scale.

    The small-sample factor is common to all rows and cancels in their comparison.
    """
    solver = np.linalg.pinv(design)  # (k, n)
    coefficients = targets @ solver.T  # (B, k)
    influence = solver[column] * (targets - coefficients @ design.T)  # (B, n)
    scores = influence @ np.eye(clusters.max() + 1)[clusters]  # (B, G)
    error = np.sqrt((scores**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return coefficients[:, column] / error
