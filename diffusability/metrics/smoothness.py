"""Smoothness: how much of a latent's energy is at high spatial frequencies.

SEC is Eq. 7-9 of "Diffusing in the Right Space" (arXiv 2606.03578); the radial slope follows
Spectrum Matching (arXiv 2603.14645), the local correlation and the few-mode view of channels
SSVAE (arXiv 2512.05394).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from diffusability.errors import MeasurementError
from diffusability.metrics.cosine_transform import cosine_transform
from diffusability.metrics.latent_set import LatentSet
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import jackknife_stderr, mean_and_stderr

_SEC_RATIOS = (0.25, 0.5)
_WINDOW = 2


def high_frequencies(height: int, width: int, ratio: float) -> Tensor:
    """Return the (H, W) bool coefficients above the threshold of SEC (Eq. 8).

    Args:
        height, width: grid size.
        ratio: rho in [0, 1); the threshold is rho * ((H - 1) + (W - 1)) on u + v.
    """
    order = torch.arange(height)[:, None] + torch.arange(width)  # (H, W), u + v
    return order > ratio * (height + width - 2)


@dataclass(frozen=True)
class RadialBins:
    """Rings of DCT coefficients with nearly the same frequency.

    Attributes:
        average: (H*W, R) float64, column r averages over ring r.
        log_frequency: (R,) float64, natural logarithm of the mean radius of each ring.
    """

    average: Tensor
    log_frequency: Tensor


def radial_bins(height: int, width: int, device: torch.device | None = None) -> RadialBins:
    """Group the coefficients of a grid into rings of rounded radius 1 to side - 1.

    The radius is sqrt((u s/H)^2 + (v s/W)^2) with s the shorter side, so both axes mean the same
    physical frequency; the mean and the corners, which only the diagonals reach, are left out.

    Raises:
        MeasurementError: fewer than two rings, no slope.
    """
    side = min(height, width)
    if side < 3:
        raise MeasurementError(f"A {height}x{width} grid has too few frequencies for a slope")
    u = torch.arange(height, dtype=torch.float64, device=device)[:, None] * side / height
    v = torch.arange(width, dtype=torch.float64, device=device) * side / width
    radius = (u.square() + v.square()).sqrt().flatten()  # (H*W,)
    rings = torch.arange(1, side, device=device)  # (R,)
    member = (radius.round()[:, None] == rings).to(torch.float64)  # (H*W, R)
    average = member / member.sum(dim=0)  # (H*W, R)
    return RadialBins(average, (radius @ average).log())


def radial_slope(ring_energy: Tensor, log_frequency: Tensor) -> Tensor:
    """Return the least-squares slope of log energy against log frequency.

    Args:
        ring_energy: (..., R) mean energy of each ring.
        log_frequency: (R,) of ``radial_bins``.

    Returns:
        (...) slope, 0 for white noise, negative for smooth latents; no direction is claimed.
    """
    centred = log_frequency - log_frequency.mean()  # (R,)
    return ring_energy.log() @ (centred / centred.square().sum())  # (...)


def local_correlation(latents: Tensor) -> Tensor:
    """Return the mean Pearson correlation, over channels, of pixels that share a 2x2 window.

    The statistic that the local correlation regulariser of SSVAE (arXiv 2512.05394) raises; an
    odd last row or column is left out.

    Args:
        latents: (B, C, H, W) z-scores with C, H, W at least 2.

    Returns:
        (B,) in [-1/3, 1], the six pairs of a window averaged, then windows; HIGHER is better.

    Raises:
        MeasurementError: one channel, or no window.
    """
    if min(latents.shape[1:]) < _WINDOW:
        raise MeasurementError(
            f"Local correlation needs two channels and a 2x2 grid; got {tuple(latents.shape[1:])}"
        )
    centred = latents - latents.mean(dim=1, keepdim=True)  # (B, C, H, W)
    pixels = normalize(centred, dim=1)  # (B, C, H, W)
    area = _WINDOW**2
    total = (area * avg_pool2d(pixels, _WINDOW)).square().sum(dim=1)  # (B, h, w), |sum of 4|^2
    own = area * avg_pool2d(pixels.square().sum(dim=1), _WINDOW)  # (B, h, w), 4 if none is constant
    pairs = area * (area - 1)  # 12 ordered pairs
    return ((total - own) / pairs).mean(dim=(1, 2))  # (B,)


def effective_rank(covariance: Tensor) -> float:
    """Return (sum l)^2 / sum l^2 of the eigenvalues l of a channel covariance.

    Args:
        covariance: (C, C) symmetric.

    Returns:
        Number in [1, C]; C if all eigenvalues are equal; no direction is claimed.
    """
    return float(covariance.trace().square() / covariance.square().sum())


def measure_smoothness(latents: Tensor) -> list[Measurement]:
    """Measure smoothness on z-scored latents; standard errors by jackknife over images.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.

    Returns:
        ``smoothness.sec25`` and ``smoothness.sec50`` (LOWER is better),
        ``smoothness.radial_slope``, ``smoothness.effective_rank`` and its ``_raw`` on latents
        that are not z-scored (no direction), ``smoothness.local_correlation`` (HIGHER is
        better); all pure numbers. On one channel the
        local correlation, on a side below 3 the slope, is left out and a flag says so.

    Raises:
        MeasurementError: bad or collapsed latents, or a 1x1 grid.
    """
    data = LatentSet(latents)
    if data.height * data.width == 1:
        raise MeasurementError("A 1x1 grid has no spatial frequency: smoothness is not defined")
    sums = _image_sums(data)
    flags = []
    measurements = []
    if sums.ring is not None:
        measurements.append(_slope_measurement(sums.ring, data))
    else:
        flags.append("no radial slope: a side has fewer than 3 tokens")
    if sums.local is not None:
        value, stderr = mean_and_stderr(sums.local, "smoothness.local_correlation")
        options = {"normalise": True, "window": _WINDOW}
        name = "smoothness.local_correlation"
        measurements.append(Measurement(name, value, stderr, data.count, "1", True, options))
    else:
        flags.append("no local correlation: fewer than 2 channels, rows or columns")
    measurements += _rank_measurements(sums.correlation, data)
    sec = [
        _sec_measurement(sums.high[index], sums.total, ratio, tuple(flags))
        for index, ratio in enumerate(_SEC_RATIOS)
    ]
    return data.flagged(sec + measurements)


@dataclass(frozen=True)
class _ImageSums:
    """Sufficient statistics of each image, from one pass over the latents.

    Attributes:
        high: (ratios, N, C) energy above each threshold of SEC.
        total: (N, C) energy.
        ring: (N, R) mean energy of each ring, or None where the grid has too few.
        local: (N,) local correlation, or None where it is not defined.
        correlation: (C, C) correlation of channels over images and positions.
    """

    high: Tensor
    total: Tensor
    ring: Tensor | None
    local: Tensor | None
    correlation: Tensor


def _image_sums(data: LatentSet) -> _ImageSums:
    """Gather the sufficient statistics in one pass over the z-scores."""
    grid = (data.height, data.width)
    above = torch.stack([high_frequencies(*grid, ratio).flatten() for ratio in _SEC_RATIOS])
    selector = above.to(data.device, torch.float64).mT  # (H*W, ratios)
    bins = radial_bins(*grid, data.device) if min(grid) >= 3 else None
    windows = min(data.channels, *grid) >= _WINDOW
    where: dict[str, Any] = {"dtype": torch.float64, "device": data.device}
    # filled in place: small results kept between large temporaries would fragment the heap
    high = torch.empty(len(_SEC_RATIOS), data.count, data.channels, **where)
    total = torch.empty(data.count, data.channels, **where)
    ring = None if bins is None else torch.empty(data.count, bins.log_frequency.numel(), **where)
    local = torch.empty(data.count, **where) if windows else None
    moment = torch.zeros(data.channels, data.channels, **where)
    for images, block in data.blocks(normalised=True):
        energy = cosine_transform(block).square().flatten(2)  # (B, C, H*W)
        high[:, images] = (energy @ selector).permute(2, 0, 1)  # (ratios, B, C)
        total[images] = energy.sum(dim=2)  # (B, C)
        if bins is not None and ring is not None:
            ring[images] = energy.mean(dim=1) @ bins.average  # (B, R)
        if local is not None:
            local[images] = local_correlation(block)  # (B,)
        values = block.transpose(0, 1).flatten(1)  # (C, B*H*W)
        moment += values @ values.mT
    moment /= data.count * data.height * data.width - 1  # the ddof of the z-scores
    return _ImageSums(high, total, ring, local, moment)


def _sec_measurement(
    high: Tensor, total: Tensor, ratio: float, flags: tuple[str, ...]
) -> Measurement:
    """SEC with its exact delete-one jackknife, the normalisation redone in every replicate.

    Z-scored channels carry equal total energy, so SEC is the mean over channels of each
    channel's own share; in that form leaving an image out also redoes the normalisation.
    """
    count = total.shape[0]
    value = float(high.sum() / total.sum())
    replicates = ((high.sum(dim=0) - high) / (total.sum(dim=0) - total)).mean(dim=1)  # (N,)
    options = {"normalise": True, "rho": ratio, "distance": "manhattan", "transform": "dct-ii"}
    name = f"smoothness.sec{round(100 * ratio)}"
    return Measurement(name, value, jackknife_stderr(replicates), count, "1", False, options, flags)


def _slope_measurement(ring: Tensor, data: LatentSet) -> Measurement:
    """Radial slope with its exact delete-one jackknife, the normalisation held fixed."""
    log_frequency = radial_bins(data.height, data.width, data.device).log_frequency  # (R,)
    value = float(radial_slope(ring.mean(dim=0), log_frequency))
    left_out = (ring.sum(dim=0) - ring) / (data.count - 1)  # (N, R)
    stderr = jackknife_stderr(radial_slope(left_out, log_frequency))
    options = {"normalise": True, "rings": log_frequency.numel(), "fit": "log energy, log radius"}
    name = "smoothness.radial_slope"
    return Measurement(name, value, stderr, data.count, "1", None, options)


def _rank_measurements(correlation: Tensor, data: LatentSet) -> list[Measurement]:
    """Effective rank of the channels' correlation and of their covariance (``_raw``).

    Standard errors are infinitesimal jackknives. With r = |R|_F^2 of the correlation R, the rank
    is C^2 / r, and an image with second moment S moves r by 2 [tr(R S) - sum_a S_aa sum_b R_ab^2]
    (the normalisation redone). With T = tr V and f = |V|_F^2 of the covariance V, the rank is
    T^2 / f, and an image moves it by 2 T (tr S - T) / f - 2 T^2 (tr(V S) - f) / f^2.
    """
    std = data.statistics.std  # (C,)
    covariance = correlation * std * std[:, None]  # (C, C)
    row_energy = correlation.square().sum(dim=1)  # (C,)
    r, f, T = row_energy.sum(), covariance.square().sum(), covariance.trace()
    smallest = torch.finfo(data.latents.dtype).eps * data.channels
    lost = int((torch.linalg.eigvalsh(correlation) <= smallest).sum())
    flags = (f"rank-deficient: {lost} of {data.channels} channels follow from the others",) * (
        lost > 0
    )
    scaled, raw = data.statistics.mean.new_empty(2, data.count)  # (N,) each
    for images, block in data.blocks(normalised=True):
        values = block.flatten(2)  # (B, C, H*W)
        raw_values = values * std[:, None]  # (B, C, H*W), centred
        positions = values.shape[2]
        mixed = (values * (correlation @ values)).sum(dim=(1, 2)) / positions  # (B,), tr(R S)
        own = values.square().mean(dim=2) @ row_energy  # (B,)
        scaled[images] = 2 * (mixed - own) * data.channels**2 / r**2
        trace = raw_values.square().sum(dim=(1, 2)) / positions  # (B,), tr S
        mixed = (raw_values * (covariance @ raw_values)).sum(dim=(1, 2)) / positions  # (B,)
        raw[images] = 2 * T * (trace - T) / f - 2 * T**2 * (mixed - f) / f**2
    return [
        Measurement(
            f"smoothness.effective_rank{suffix}",
            effective_rank(matrix),
            float(influence.std(correction=1)) / data.count**0.5,
            data.count,
            "1",
            None,
            {"normalise": normalised},
            flags,
        )
        for suffix, matrix, influence, normalised in (
            ("", correlation, scaled, True),
            ("_raw", covariance, raw, False),
        )
    ]
