"""Definitions of metrics in closed form, which the library computes in another way."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusability.metrics.smoothness import high_frequencies


def irreducible_variance(eigenvalues: Tensor) -> Tensor:
    """Return VIV, the mean over dimensions of (pi/2) sqrt(lambda) (Eq. 5, t uniform).

    Args:
        eigenvalues: (..., d) of a class covariance, non-negative, in noise variances.

    Returns:
        (...) in noise variances; LOWER is better; pi/2 for isotropic unit variance.
    """
    return math.pi / 2 * eigenvalues.clamp(min=0).sqrt().mean(dim=-1)


def spectral_energy_concentration(energy: Tensor, ratio: float) -> float:
    """Return SEC, the share of the energy outside the low frequencies (Eq. 9).

    Args:
        energy: (H, W) mean squared DCT coefficient over images and channels.
        ratio: rho in [0, 1).

    Returns:
        Share in [0, 1], the mean (DC) counted below the line; LOWER is better (smoother).
    """
    height, width = energy.shape
    high = high_frequencies(height, width, ratio).to(energy.device)  # (H, W)
    return float(energy[high].sum() / energy.sum())


def gaussian_curve(eigenvalues: Tensor, v: Sequence[float]) -> Tensor:
    """Return v FI / n, v^2 FIR / n and MMSE rate / n of Gaussians, pure numbers in [0, 1].

    Args:
        eigenvalues: (..., n) of the covariances, not negative.
        v: V positive noise variances.

    Returns:
        (..., V, 3) in the dtype of the eigenvalues.
    """
    levels = []
    for level in v:
        noise = level / (eigenvalues + level)  # (..., n), share of noise in y along each axis
        shares = (noise, noise.square(), (1 - noise).square())
        levels.append(torch.stack([share.mean(dim=-1) for share in shares], dim=-1))
    return torch.stack(levels, dim=-2)
