"""Fréchet distance between two sets of features, with its standard error.

The distance is the 2-Wasserstein distance squared between Gaussians of the same first and second
moments (Heusel et al., arXiv 1706.08500, Eq. 6):
|mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2)).
The last trace does not need the square root of a general matrix: with S_a = R R^T, the non-zero
eigenvalues of S_a S_b are those of the symmetric R^T S_b R. R is a Cholesky factor. If a set has
fewer vectors than features, R is thin, with one column per vector.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cached_property

import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import FeatureMoments, merge_moments
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import delete_block_stderr
from diffusability.study.core.names import distance_name

_PANEL = 256  # columns per matrix product
_CHOLESKY_PANEL = 128  # columns per step of the factorisation
_EIGEN_ERROR = (
    16 * torch.finfo(torch.float64).eps
)  # error of a symmetric eigensolver, relative to the norm
_TRACE_TOLERANCE = 1e-8  # accepted error of the trace of the root, relative to tr S_a + tr S_b


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Return the Fréchet distance between two sets of features.

    Args:
        a: moments of one set, at least two vectors; covariances are taken with ddof = 1.
        b: moments of the other set, of the same extractor.

    Returns:
        Squared distance in feature units squared, finite and >= 0; LOWER is better. Symmetric.

    Raises:
        MeasurementError: if the moments do not belong together or have fewer than two vectors.
    """
    return FrechetReference(a).distance(b)


class FrechetReference:
    """One set of features, factorised once for the distances of many sets from it.

    Args:
        moments: moments of the set, at least two vectors.

    Raises:
        MeasurementError: if there are fewer than two vectors.
    """

    def __init__(self, moments: FeatureMoments) -> None:
        self.moments = moments
        self._variance = moments.total_variance()

    def distance(self, other: FeatureMoments) -> float:
        """Return the Fréchet distance of another set, as ``frechet_distance`` does."""
        self.moments.require_comparable(other)
        shift = float((self.moments.mean - other.mean).square().sum())
        traces = self._variance + other.total_variance()
        # Rounding may leave -1e-16 of the traces where the two sets are the same.
        return max(0.0, shift + traces - 2 * self.trace_of_root(other))

    def trace_of_root(self, other: FeatureMoments) -> float:
        """Return tr((S_a S_b)^(1/2)), S_a being the covariance of this set and S_b of the other.

        The fast path takes the eigenvalues of R^T S_b R with S_a = R R^T. The two sets are
        exchanged if the other one has fewer vectors than this one and than features: the matrix is
        then as small as possible and, in general, regular. A square root turns the rounding error e
        of an eigenvalue near 0 into sqrt(e), so where such eigenvalues remain the trace is instead
        the sum of the singular values of R_a^T R_b, which carry no such loss.

        Args:
            other: moments of the other set, at least two vectors.

        Returns:
            The trace, >= 0, in feature units squared.
        """
        # covariance = scatter / this; dividing at the end saves two (D, D) divisions
        scale = math.sqrt(self.moments.degrees_of_freedom() * other.degrees_of_freedom())
        thin = other.count < min(self.moments.count, other.dim + 1)
        if thin:
            product = _congruence(_thin_root(other), self.moments.scatter, triangular=False)
        else:
            root, triangular = self._root
            product = _congruence(root, other.scatter, triangular)
        spectrum = torch.linalg.eigvalsh(product.mT, UPLO="U")  # (r,); LAPACK's memory order
        noise = _EIGEN_ERROR * float(spectrum.amax().clamp_min(0)) if len(spectrum) else 0.0
        values = spectrum.clamp_min(0).sqrt()  # (r,)
        error = float((noise / (2 * values)).clamp_max(math.sqrt(noise)).sum()) / scale
        # Where a covariance is zero the error is NaN, and the comparison fails as it should.
        if error <= _TRACE_TOLERANCE * (self._variance + other.total_variance()):
            return float(values.sum()) / scale
        pair = _thin_root(self.moments).T @ _thin_root(other)  # (r_a, r_b)
        return float(torch.linalg.svdvals(pair).sum()) / scale

    @cached_property
    def _root(self) -> tuple[Tensor, bool]:
        """R (D, r) with R R^T = the scatter of this set, and whether it is lower triangular."""
        if not self.moments.rank_deficient:
            lower = _cholesky(self.moments.scatter)
            if lower is not None:
                return lower, True
        return _thin_root(self.moments), False


def _cholesky(matrix: Tensor) -> Tensor | None:
    """Return the lower triangular L (D, D) with L L^T = matrix, or None if it is not regular.

    On a CPU, each panel of columns subtracts all earlier ones in one product; this is twice as
    fast as the library's factorisation at 2,048 dimensions.
    """
    if matrix.is_cuda:
        lower, failed = torch.linalg.cholesky_ex(matrix)
        return None if int(failed) else lower
    dim = matrix.shape[0]
    lower = torch.zeros_like(matrix)
    for start in range(0, dim, _CHOLESKY_PANEL):
        stop = min(start + _CHOLESKY_PANEL, dim)
        rest = torch.addmm(
            matrix[start:, start:stop], lower[start:, :start], lower[start:stop, :start].T, alpha=-1
        )
        corner, failed = torch.linalg.cholesky_ex(rest[: stop - start])
        if int(failed):
            return None
        lower[start:stop, start:stop] = corner
        lower[stop:, start:stop] = torch.linalg.solve_triangular(
            corner.T, rest[stop - start :], upper=True, left=False
        )
    return lower


def _congruence(root: Tensor, matrix: Tensor, triangular: bool) -> Tensor:
    """Return the lower triangle (r, r) of root^T matrix root; entries above it are undefined.

    The second product computes only what an eigensolver reads. If ``root`` (D, r) is lower
    triangular, both products skip its zeros and do a third of the work of two full ones.
    """
    rank = root.shape[1]
    product = torch.empty_like(root)  # (D, r) matrix @ root
    for start in range(0, rank, _PANEL):
        stop = min(start + _PANEL, rank)
        first = start if triangular else 0  # above it the columns are zero
        torch.mm(matrix[:, first:], root[first:, start:stop], out=product[:, start:stop])
    # In the triangular case rows of the product are read no more once their own result is known.
    result = product if triangular else root.new_zeros(rank, rank)
    for start in range(0, rank, _PANEL):
        stop = min(start + _PANEL, rank)
        first = start if triangular else 0
        result[start:stop, :stop] = root[first:, start:stop].T @ product[first:, :stop]
    return result


def _thin_root(moments: FeatureMoments) -> Tensor:
    """Return R (D, r) with R R^T = the scatter, without directions that are only rounding.

    A pivoted Cholesky factor. It stops when the largest remaining variance is rounding error, or
    at the rank of the centred vectors. LAPACK's routine has no GPU version, so this runs on the CPU
    for any device.
    """
    matrix = moments.scatter
    factor, pivots, found, _ = dpstrf(matrix.cpu().numpy(), lower=1)
    rank = min(int(found), moments.degrees_of_freedom())
    root = torch.zeros(moments.dim, rank, dtype=matrix.dtype)
    root[torch.from_numpy(pivots).long() - 1] = torch.from_numpy(factor[:, :rank]).tril()
    return root.to(matrix.device)


def measure_frechet(
    *,
    reference: FeatureMoments,
    generated: Sequence[FeatureMoments],
    paired: Sequence[FeatureMoments] | None = None,
    stage: str = "generation",
) -> Measurement:
    """Measure the Fréchet distance of shards of images from a reference set.

    The standard error is a delete-one-shard jackknife over the generated shards, given the
    reference; if both come from the same images, a shard is left out of both. A block bootstrap is
    not used: copies of a shard lower the rank of the resampled covariance, so it overstates the
    error unless samples far outnumber dimensions (2.4 times at 500 samples of 64 features,
    20 shards).

    Args:
        reference: moments of the reference images.
        generated: moments of at least two disjoint shards of the generated images, each a random or
            class-balanced part of the whole (not one class per shard).
        stage: first part of the metric's name: what made the images.

    Returns:
        ``<stage>.fd_<extractor>``, in feature units squared; LOWER is better. Inception's is called
        ``<stage>.fid``. Biased upwards by a term in 1/n: compare equal n only.

    Raises:
        MeasurementError: if there are fewer than two shards, or moments do not belong together.
    """
    total = merge_moments(generated)
    if len(generated) < 2:
        raise MeasurementError(
            f"features of {total.extractor}: a standard error needs at least two shards, got "
            "one; split the images into random shards"
        )
    prepared = FrechetReference(reference)
    value = prepared.distance(total)
    if paired is None:
        left_out = [prepared.distance(total.without(shard)) for shard in generated]
    else:
        left_out = [
            frechet_distance(reference.without(own), total.without(shard))
            for own, shard in zip(paired, generated, strict=True)
        ]
    sizes = torch.tensor([shard.count for shard in generated])
    return Measurement(
        metric=f"{stage}.{distance_name('fd', total.extractor)}",
        value=value,
        stderr=delete_block_stderr(value, torch.tensor(left_out, dtype=torch.float64), sizes),
        n=total.count,
        unit="feature^2",
        higher_is_better=False,
        options=_options(reference, generated),
        flags=_rank_flags(reference, total),
    )


def _options(
    reference: FeatureMoments, generated: Sequence[FeatureMoments]
) -> dict[str, int | str | None]:
    return {
        "extractor": reference.extractor,
        "resolution": reference.resolution,
        "dim": reference.dim,
        "reference_count": reference.count,
        "reference_digest": reference.digest(),
        "shards": len(generated),
    }


def _rank_flags(reference: FeatureMoments, generated: FeatureMoments) -> tuple[str, ...]:
    """Return flags, and warn, if a covariance has too few samples for full rank."""
    low = [m for m in (reference, generated) if m.rank_deficient]
    if not low:
        return ()
    counts = f"{reference.count} reference and {generated.count} generated images"
    _warn_rank(f"there are {counts}", generated.dim)
    return ("rank-deficient",)


def _warn_rank(what: str, dim: int) -> None:
    warnings.warn(
        f"Fréchet distance over {dim} features: {what}; at or below {dim} a covariance is "
        "rank-deficient and the distance is strongly biased. Use more images or a smaller "
        "extractor",
        stacklevel=4,
    )
