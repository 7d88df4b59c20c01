"""Wild cluster bootstrap: p-values of coefficients where clusters are few."""

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from diffusability.analysis.estimators import Array


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
        rng: source of the signs; unused where all 2^G are tried.
        resamples: sign patterns; all of them where there are no more.

    Returns:
        p in [2^(1-G), 1]; NaN where the design has no full rank or there is one cluster.
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

    The factor of small samples is the same for all and drops out of their comparison.
    """
    solver = np.linalg.pinv(design)  # (k, n)
    coefficients = targets @ solver.T  # (B, k)
    influence = solver[column] * (targets - coefficients @ design.T)  # (B, n)
    scores = influence @ np.eye(clusters.max() + 1)[clusters]  # (B, G)
    error = np.sqrt((scores**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return coefficients[:, column] / error
