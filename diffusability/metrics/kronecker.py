"""Maximum-likelihood Kronecker covariance of matrix-valued data by the flip-flop algorithm.

Model: X_i (p x q) = M + E_i, Cov(vec E) = A (x) B with A (p x p) over rows (channels) and
B (q x q) over columns (positions). Mardia and Goodall 1993; Dutilleul 1999 (J. Stat. Comput.
Simul. 64:105); uniqueness: Srivastava, Nahtman and von Rosen 2008; existence: Drton, Kuriki and
Hoff 2021 (arXiv 2003.06024). It is Eq. 3 of "Diffusing in the Right Space" (arXiv 2606.03578).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.study.preflight.class_sizes import LEAST_CLASSES, minimum_samples

TOLERANCE = 1e-6
MAX_ITERATIONS = 100
_PIECE_BYTES = 2 * 2**20  # of samples at a time, so that products stay in the cache
_JITTER = 1e-10  # ridge relative to the mean eigenvalue, added only to a singular factor
# share of a row's (or column's) variance that does not follow from others, below which it is
# rounding: of single precision 1e-14, and more where means are large
_FOLLOWS = 1e-12


def require_samples(counts: Tensor, names: Tensor, rows: int, columns: int) -> None:
    """Raise if any class has fewer than ``minimum_samples``.

    Args:
        counts: (K,) samples of each class.
        names: (K,) labels of the classes, for the message.
        rows, columns: p and q.

    Raises:
        MeasurementError: naming the classes, the rule and what to do.
    """
    least = minimum_samples(rows, columns)
    few = counts < least  # (K,)
    if bool(few.any()):
        listed = [
            f"{name} has {count}"
            for name, count in zip(names[few].tolist(), counts[few].tolist(), strict=True)
        ]
        skip = (  # a metric of classes needs two that are left
            ", or leave these classes out with smallest_class: skip"
            if counts.numel() - len(listed) >= LEAST_CLASSES
            else ""
        )
        raise MeasurementError(
            f"{len(listed)} of {counts.numel()} classes have fewer than {least} samples, below "
            f"which the covariance of {rows} channels x {columns} positions has no reliable "
            f"maximum-likelihood fit (n > p/q + q/p + 1, plus a margin): class "
            f"{', '.join(listed[:5])}. Measure on more images per class{skip}"
        )


@dataclass(frozen=True)
class KroneckerFit:
    """Fitted factors of K classes, scaled so that tr B = q; A carries the scale.

    Attributes:
        rows: (K, p, p) A, in squared latent units.
        columns: (K, q, q) B, a pure number.
        iterations: (K,) iterations used.
        converged: (K,) bool, the relative change fell below the tolerance.
        deficient: (K,) bool, a factor was singular and was regularised.
    """

    rows: Tensor
    columns: Tensor
    iterations: Tensor
    converged: Tensor
    deficient: Tensor


def flip_flop(
    centred: Tensor,
    counts: Tensor,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    *,
    plain: bool = False,
) -> KroneckerFit:
    """Fit A and B of every class at once, each class frozen as soon as it has converged.

    Alternates A = mean_i X_i B^-1 X_i^T / q and B = mean_i X_i^T A^-1 X_i / p, whose fixed point
    maximises the likelihood, until both factors change by less than ``tolerance`` (Frobenius,
    relative). Where rows follow from others, p is the rank of A: X_i has no more rows that vary by
    themselves. (The rank of B cancels as B is scaled.)

    Args:
        centred: (K, n, p, q) float64 samples minus their class mean; classes with fewer than n
            samples are padded with zeros.
        counts: (K,) samples of each class.
        tolerance: relative change that ends the iteration.
        max_iterations: iterations after which a class is returned unconverged.
        plain: neither extrapolate B between the steps, which saves some of them, nor take samples
            in pieces. The result is the same within the tolerance.

    Returns:
        The fit; it does not depend on which classes share a batch.
    """
    classes, _, p, q = centred.shape
    A = torch.eye(p, dtype=centred.dtype, device=centred.device).repeat(classes, 1, 1)
    B = torch.eye(q, dtype=centred.dtype, device=centred.device).repeat(classes, 1, 1)
    iterations = torch.full((classes,), max_iterations, device=centred.device)
    converged, deficient = torch.zeros(2, classes, dtype=torch.bool, device=centred.device)
    active = torch.arange(classes, device=centred.device)
    samples, sizes, extrapolation = centred, counts.to(centred), _Extrapolation()
    for iteration in range(1, max_iterations + 1):
        start = None if iteration == 1 else B[active]
        A_new, B_new, singular = _iterate(samples, sizes, start, whole=plain)
        moved = torch.maximum(_change(A_new, A[active]), _change(B_new, B[active]))  # (k,)
        deficient[active] |= singular
        done = moved < tolerance  # (k,)
        if not plain:
            beyond = extrapolation.beyond(B[active], B_new, moved)
            B_new = torch.where(done[:, None, None], B_new, beyond)
        A[active], B[active] = A_new, B_new
        if bool(done.any()):
            iterations[active[done]] = iteration
            converged[active[done]] = True
            active, samples, sizes = active[~done], samples[~done], sizes[~done]
            extrapolation.keep(~done)
        if active.numel() == 0:
            break
    return KroneckerFit(A, B, iterations, converged, deficient)


class _Extrapolation:
    """Anderson's mixing of the last two steps of a fixed-point iteration, of k classes at once.

    D. G. Anderson, "Iterative procedures for nonlinear integral equations" (1965), with a memory
    of one step. The fixed point and the test for it are those of the plain iteration.
    """

    def __init__(self) -> None:
        self._before: tuple[Tensor, Tensor, Tensor] | None = None

    def beyond(self, point: Tensor, image: Tensor, moved: Tensor) -> Tensor:
        """Return where to go on: beyond the image (k, q, q) of a point, or where unsafe, there.

        Args:
            moved: (k,) relative change of the step; where it has grown, nothing is extrapolated.
        """
        step = image - point
        before, self._before = self._before, (image, step, moved)
        if before is None:
            return image
        last_image, last_step, last_moved = before
        bend = step - last_step
        least = torch.finfo(step.dtype).tiny
        share = (bend * step).sum(dim=(1, 2)) / bend.square().sum(dim=(1, 2)).clamp(min=least)
        beyond = image - share[:, None, None] * (image - last_image)
        safe = (moved < last_moved) & (torch.linalg.cholesky_ex(beyond)[1] == 0)  # (k,)
        return torch.where(safe[:, None, None], beyond, image)

    def keep(self, classes: Tensor) -> None:
        """Go on with some of the classes, (k,) bool."""
        if self._before is not None:
            image, step, moved = (each[classes] for each in self._before)
            self._before = image, step, moved


def _iterate(
    samples: Tensor, sizes: Tensor, B: Tensor | None, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One flip and one flop: B (k, q, q), None for the identity, to the next (A, B, singular)."""
    k, n, p, q = samples.shape
    fitting = max(1, _PIECE_BYTES // (k * p * q * samples.element_size()))
    pieces = samples.split(n if whole else fitting, dim=1)
    whitener, singular = (None, None) if B is None else _whitener(B)  # (k, q, q)
    A = samples.new_zeros(k, p, p)
    for piece in pieces:
        half = piece if whitener is None else (piece.reshape(k, -1, q) @ whitener.mT)
        half = half.view(k, -1, p, q)  # X B^-1/2
        A += (half @ half.mT).sum(dim=1)
    A /= (sizes * q)[:, None, None]
    whitener, singular_A = _whitener(A)  # (k, p, p)
    rank = _rank(A, singular_A)  # (k,)
    B = samples.new_zeros(k, q, q)
    for piece in pieces:
        half = (whitener[:, None] @ piece).view(k, -1, q)  # A^-1/2 X
        B.baddbmm_(half.mT, half)
    B /= (sizes * rank)[:, None, None]
    scale = torch.diagonal(B, dim1=1, dim2=2).mean(dim=1)[:, None, None]  # (k, 1, 1)
    return A * scale, B / scale, singular_A if singular is None else singular | singular_A


def _whitener(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return L^-1 of the Cholesky factor covariance = L L^T, and which were singular.

    L^-1 comes from a triangular solve, whose error grows with the condition of L, the square root
    of the covariance's; the covariance itself is never inverted. One product with L^-1 is twice
    as fast as a triangular solve against every sample.
    """
    size = covariance.shape[-1]
    identity = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    factor, info = torch.linalg.cholesky_ex(covariance)  # (k, s, s)
    pivots, variances = (torch.diagonal(x, dim1=1, dim2=2) for x in (factor, covariance))
    singular = (info > 0) | (pivots.square() < _FOLLOWS * variances).any(dim=1)  # (k,)
    if bool(singular.any()):
        level = torch.diagonal(covariance, dim1=1, dim2=2).mean(dim=1)[:, None, None]  # (k, 1, 1)
        floor = _JITTER * level.clamp(min=torch.finfo(covariance.dtype).tiny) * identity
        mended = torch.linalg.cholesky_ex((covariance + floor)[singular])[0]
        factor[singular] = mended
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False), singular


def _rank(covariance: Tensor, singular: Tensor) -> Tensor:
    """Return the (k,) ranks of (k, s, s) covariances, s where they are not singular."""
    rank = torch.full_like(singular, covariance.shape[-1], dtype=torch.int64)
    if bool(singular.any()):
        own = covariance[singular]
        root = torch.diagonal(own, dim1=1, dim2=2).sqrt().clamp(min=torch.finfo(own.dtype).tiny)
        correlation = own / root[:, :, None] / root[:, None]
        rank[singular] = (torch.linalg.eigvalsh(correlation) > _FOLLOWS).sum(dim=1).clamp(min=1)
    return rank


def _change(new: Tensor, old: Tensor) -> Tensor:
    """Return the (k,) Frobenius change relative to the new matrix."""
    return (new - old).flatten(1).norm(dim=1) / new.flatten(1).norm(dim=1)
