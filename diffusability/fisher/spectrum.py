"""Power spectra of images and latents, which depend on how their entries are ordered.

FI and FIR do not. The order of a latent vector's entries is arbitrary, so its spectrum is a
control that should be flat.
"""

import torch
from torch import Tensor

from diffusability.errors import MeasurementError


def image_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the radial power spectrum of images, averaged over channels and images.

    Every image is first normalised to zero mean and unit variance, so white noise has power 1.

    Args:
        images: (N, C, H, W), not constant.

    Returns:
        Frequencies (K,) in cycles per pixel, without zero and up to the axes' Nyquist frequency,
        and powers (K,), float64.
    """
    x = _normalised(images)
    height, width = x.shape[-2:]
    power = torch.fft.fft2(x).abs().square().mean((0, 1)) / (height * width)  # (H, W)
    rows = torch.fft.fftfreq(height, dtype=torch.float64, device=x.device)
    columns = torch.fft.fftfreq(width, dtype=torch.float64, device=x.device)
    radius = torch.hypot(rows[:, None], columns[None])  # (H, W)
    side = min(height, width)
    ring = (radius * side).round().to(torch.int64)  # (H, W), 0 .. beyond side / 2
    totals = torch.zeros(int(ring.max()) + 1, dtype=torch.float64, device=x.device)
    sums = totals.index_add(0, ring.flatten(), power.flatten())
    radii = totals.index_add(0, ring.flatten(), radius.flatten())
    counts = torch.bincount(ring.flatten())
    keep = slice(1, side // 2 + 1)
    return (radii / counts)[keep], (sums / counts)[keep]


def vector_spectrum(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power spectrum of vectors over their index, averaged over vectors.

    Args:
        vectors: (N, n), not constant; each is normalised to zero mean and unit variance.

    Returns:
        Frequencies (n // 2,) in cycles per entry, without zero, and powers (n // 2,), float64.
    """
    x = _normalised(vectors)
    n = x.shape[1]
    power = torch.fft.rfft(x).abs().square().mean(0) / n
    return torch.fft.rfftfreq(n, dtype=torch.float64, device=x.device)[1:], power[1:]


def spectral_slope(frequency: Tensor, power: Tensor) -> float:
    """Return the least-squares slope of log power against log frequency; 0 for white noise.

    Args:
        frequency: (K,) positive, K at least 2.
        power: (K,) positive.
    """
    x, y = frequency.log(), power.log()
    centred = x - x.mean()
    return float((centred @ y) / (centred @ centred))


def _normalised(x: Tensor) -> Tensor:
    """Return each datum with zero mean and unit variance, float64."""
    flat = x.to(torch.float64).flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    if not bool((spread > 0).all()):
        raise MeasurementError("a constant image has no spectrum; leave it out")
    return (centred / spread).view_as(x)
