"""Fisher information of a Gaussian mixture: the class mean, corrected for class overlap.

At y = x + sqrt(v) z of a mixture, D = sum_k r_k D_k and G = sum_k r_k G_k + Cov_k(D_k) / v with
responsibilities r_k(y), G_k = S_k (S_k + v)^-1. The expectation of tr sum_k r_k G_k is exactly the
mean of tr G_k over classes, so n - v FI differs from its class-conditional value by the trace of
the covariance between classes alone, never negative: not knowing the class lowers FI. The MMSE
rate differs by |G r|^2 - |G_k r|^2 with k the class of y and r random signs, where the part c I of
G, of known trace, is taken out of the probe. Both are zero where classes do not overlap, and the
Monte-Carlo error vanishes there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.mixture_velocity import KroneckerMixture

_NEGLIGIBLE = 1e-12  # responsibilities below it change nothing beyond rounding


def overlap_samples(
    mixture: KroneckerMixture, v: Sequence[float], *, samples: int, generator: torch.Generator
) -> Tensor:
    """Draw unbiased estimates of the overlap correction to the mean of the class curves.

    Args:
        mixture: the classes, equally likely.
        v: V noise variances.
        samples: points, at least 2, with one probe each; the same draws at every v.
        generator: draws classes, data, noise and probes; on the CPU.

    Returns:
        (samples, V, 3) independent, unbiased estimates of the differences of v FI / n (<= 0),
        v^2 FIR / n and MMSE rate / n between the mixture and the mean over its classes.

    Raises:
        MeasurementError: fewer than two samples.
    """
    if samples < 2:
        raise MeasurementError("a standard error needs at least two samples")
    classes, p, q = mixture.means.shape
    device = mixture.means.device
    own = torch.randint(classes, (samples,), generator=generator).to(device)  # (M,)
    shape = (samples, p, q)
    z = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(device)
    signs = (2 * torch.randint(0, 2, shape, generator=generator) - 1).to(mixture.means)
    x = torch.empty_like(z[0])
    for one, k in enumerate(own.tolist()):
        spread = mixture.eigenvalues(k).sqrt() * z[0, one]  # (p, q)
        x[one] = mixture.means[k] + mixture.rotate_back(spread, k)
    levels = []
    for level in v:
        trace, gain = _overlap(mixture, x + level**0.5 * z[1], own, signs, level)
        levels.append(torch.stack((-trace, gain - 2 * trace, gain), dim=1) / (p * q))
    return torch.stack(levels, dim=1).cpu()


def _overlap(
    mixture: KroneckerMixture, y: Tensor, own: Tensor, probe: Tensor, v: float
) -> tuple[Tensor, Tensor]:
    """Return (M,) traces of Cov_k(D_k) / v and (M,) estimates of |G|^2 - |G_own|^2 at points y."""
    shrink = mixture.row_values[:, :, None] * mixture.column_values[:, None]  # (K, p, q)
    scalar = float((shrink / (shrink + v)).mean())  # c
    shares = _responsibilities(mixture, y, v)  # (M, K)
    base, alone = torch.empty_like(y), torch.empty_like(y)  # D_own, G_own r
    for k in own.unique().tolist():
        of_k = own == k
        base[of_k] = _denoise(mixture, y[of_k], k, v)
        alone[of_k] = _shrink(mixture, probe[of_k], k, v)
    # sums over classes of r_k G_k r, r_k E_k, r_k E_k (E_k r) and r_k |E_k|^2, E_k = D_k - D_own
    within, centre, twist = (torch.zeros_like(y) for _ in range(3))
    square = torch.zeros_like(y[:, 0, 0])
    for k in range(shares.shape[1]):
        near = torch.nonzero(shares[:, k] > _NEGLIGIBLE).flatten()  # (J,)
        if not len(near):
            continue
        share = shares[near, k][:, None, None]  # (J, 1, 1)
        gap = _denoise(mixture, y[near], k, v) - base[near]  # (J, p, q)
        within[near] += share * _shrink(mixture, probe[near], k, v)
        centre[near] += share * gap
        twist[near] += share * gap * _dot(gap, probe[near])[:, None, None]
        square[near] += share[:, 0, 0] * _dot(gap, gap)
    trace = (square - _dot(centre, centre)).clamp(min=0) / v
    between = (twist - centre * _dot(centre, probe)[:, None, None]) / v
    whole = within + between  # (M, p, q), G r
    # |G r|^2 = |(G - c) r|^2 + 2 c r G r - c^2 n; of tr G - tr G_own only the trace between classes
    # has an expectation
    rest = _dot(whole - alone, whole + alone - 2 * scalar * probe)
    return trace, rest + 2 * scalar * trace


def _responsibilities(mixture: KroneckerMixture, y: Tensor, v: float) -> Tensor:
    """Return the (M, K) posterior class probabilities of points y."""
    scores = []
    for k in range(mixture.means.shape[0]):
        variance = mixture.eigenvalues(k) + v  # (p, q)
        residual = mixture.rotate(y - mixture.means[k], k)  # (M, p, q)
        distance = (residual.square() / variance).sum(dim=(1, 2))  # (M,)
        scores.append(-0.5 * (distance + variance.log().sum()))
    return torch.stack(scores, dim=1).softmax(dim=1)


def _shrink(mixture: KroneckerMixture, matrices: Tensor, k: int, v: float) -> Tensor:
    """Return G_k applied to (J, p, q) matrices."""
    eigenvalues = mixture.eigenvalues(k)  # (p, q)
    return mixture.rotate_back(mixture.rotate(matrices, k) * (eigenvalues / (eigenvalues + v)), k)


def _denoise(mixture: KroneckerMixture, y: Tensor, k: int, v: float) -> Tensor:
    """Return D_k at (J, p, q) points."""
    return mixture.means[k] + _shrink(mixture, y - mixture.means[k], k, v)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2))  # (J,)
