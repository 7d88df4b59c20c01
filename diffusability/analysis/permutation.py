"""Permutation p-values: over all tokenizers, and only within clusters."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from diffusability.analysis.estimators import Array, columns, standardise
from diffusability.analysis.intervals import keyed_generator

_TIE = 1e-12  # of the largest statistic that there can be: rounding, not a difference


@dataclass(frozen=True)
class Permutations:
    """Orders of n points.

    Attributes:
        index: (R, n) places. exact: whether they are all that there are.
    """

    index: NDArray[np.int64]
    exact: bool


def permute(n: int, rng: np.random.Generator, resamples: int = 9999) -> Permutations:
    """Return all orders of n points where there are no more than ``resamples``, else that many."""
    if n < 13 and math.factorial(n) <= resamples:
        return Permutations(np.array(list(permutations(range(n)))), exact=True)
    return Permutations(rng.permuted(np.tile(np.arange(n), (resamples, 1)), axis=1), exact=False)


def permute_within(
    clusters: NDArray[np.int64], rng: np.random.Generator, resamples: int = 9999
) -> Permutations:
    """Return orders in which points swap places inside their cluster (codes (n,)) only."""
    index = np.tile(np.arange(len(clusters)), (resamples, 1))
    for code in np.unique(clusters):
        members = np.flatnonzero(clusters == code)
        index[:, members] = rng.permuted(index[:, members], axis=1)
    return Permutations(index, exact=False)


@lru_cache(maxsize=8)
def shared_permutations(seed: int, n: int, resamples: int) -> Permutations:
    """Return the permutations that all statistics of n tokenizers share."""
    return permute(n, keyed_generator(seed, "pairing", n), resamples)


def shared_within(seed: int, clusters: NDArray[np.int64], resamples: int) -> Permutations:
    """Return the permutations that all statistics over the same clusters share."""
    return _shared_within(seed, tuple(clusters.tolist()), resamples)


@lru_cache(maxsize=8)
def _shared_within(seed: int, clusters: tuple[int, ...], resamples: int) -> Permutations:
    rng = keyed_generator(seed, "within", *clusters)
    return permute_within(np.array(clusters), rng, resamples)


def pairing_p(x: Array, y: Array, orders: Permutations) -> Array:
    """Return the two-sided p of Pearson's r when any metric may go with any target.

    Args:
        x: (n,) or (n, P) values (ranks give the p of Spearman's rho).
        y: (n,), (n, 1) or (n, P) values.
        orders: of n points.

    Returns:
        (P,) p in (0, 1], twice the smaller tail, which counts the sample itself where not all
        orders are tried; NaN where r does not exist.
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
    """Return the two-sided p of the within-cluster r when tokenizers swap inside clusters only.

    Args:
        x: (n,) or (n, P) values. y: (n,), (n, 1) or (n, P) values.
        clusters: (n,) codes 0 ... G-1. orders: of points inside those clusters.

    Returns:
        (P,) p in (0, 1] of |r|, counting the sample itself, and the smallest p that the cluster
        sizes allow; NaN where no cluster varies in both.
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
        p in [0, 1]; NaN where there is no degree of freedom.
    """
    degrees = n - 2 - covariates
    if degrees < 1 or math.isnan(r):
        return math.nan
    if abs(r) >= 1:
        return 0.0
    t = r * math.sqrt(degrees / (1 - r * r))
    return float(2 * stats.t.sf(abs(t), degrees))
