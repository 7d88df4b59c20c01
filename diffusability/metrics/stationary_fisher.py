"""Fisher curves of stationary Gaussian fits: one channel covariance per DCT frequency.

The fit needs only about as many images as channels, so it exists for pixels and latents of every
size, and pixel space can be compared with a latent space by the same estimator. Covariances between
frequencies are left out, so FI and FIR of the fit are lower bounds: eigenvalues majorise the
diagonal blocks, and 1/(lam+v), 1/(lam+v)^2 are convex.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from diffusability.data.images import Rows
from diffusability.errors import MeasurementError
from diffusability.fisher.gaussian import gaussian_curve
from diffusability.latents.channel_statistics import (
    ChannelStatistics,
    channel_statistics,
    normalise,
)
from diffusability.metrics.cosine_transform import cosine_transform
from diffusability.study.class_sizes import LEAST_STATIONARY

_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class StationaryCurves:
    """v FI / n, v^2 FIR / n and MMSE rate / n of z-scored images, with jackknife replicates.

    Attributes:
        dim: dimensions n of an image.
        conditional: (1 + B, V, 3) mean over classes: of all images, then without each block.
        unconditional: (1 + B, V, 3) of one Gaussian for all classes.
        sizes: (B,) images of each block.
        flags: flags of the fits.
    """

    dim: int
    conditional: Tensor
    unconditional: Tensor
    sizes: Tensor
    flags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the curves as plain JSON values; float64 survives the round trip exactly."""
        tensors = ("conditional", "unconditional", "sizes")
        plain = {name: getattr(self, name).tolist() for name in tensors}
        return {"dim": self.dim, "flags": list(self.flags), **plain}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "StationaryCurves":
        """Return the curves that ``to_json`` wrote."""
        return cls(
            dim=values["dim"],
            conditional=torch.tensor(values["conditional"], dtype=torch.float64),
            unconditional=torch.tensor(values["unconditional"], dtype=torch.float64),
            sizes=torch.tensor(values["sizes"]),
            flags=tuple(values["flags"]),
        )


def interleaved_blocks(labels: Tensor, blocks: int) -> Tensor:
    """Return the (N,) block of each image, assigned round-robin within each class.

    There are at most as many blocks as the largest class has images.
    """
    block = torch.empty_like(labels)
    for name in labels.unique():
        members = torch.nonzero(labels == name).flatten()
        block[members] = torch.arange(len(members)) % blocks
    return block


def stationary_curves(
    images: Rows, chosen: Tensor, labels: Tensor, *, v: Sequence[float], blocks: int
) -> StationaryCurves:
    """Fit every class, and all classes together, and leave out one block of images at a time.

    Images are read twice, in chunks, and the sums are kept on the CPU; each channel is z-scored
    over the fitted images.

    Args:
        images: rows (C, H, W) of any dtype.
        chosen: (n,) int64 rows that are fitted.
        labels: (n,) int64 their classes.
        v: V noise variances.
        blocks: B blocks of images (``interleaved_blocks``).

    Raises:
        MeasurementError: a class of fewer than three images, or a constant channel.
    """
    counts = labels.unique(return_counts=True)[1]  # (K,)
    if int(counts.min()) < LEAST_STATIONARY:
        raise MeasurementError(
            f"a class of {int(counts.min())} images is too small to leave a part of it out; "
            f"give at least {LEAST_STATIONARY} images per class, or leave such classes out with "
            "smallest_class: skip"
        )
    block = interleaved_blocks(labels, blocks)
    blocks = int(block.max()) + 1
    statistics = [_statistics(images, chosen[block == b]) for b in range(blocks)]
    whole, scale = _scales(statistics)
    pooled: _Moments | None = None
    curves = []
    for name in labels.unique():
        own = _moments(images, chosen[labels == name], block[labels == name], whole, blocks)
        curves.append(own.curves(scale, v))
        pooled = own if pooled is None else pooled.plus(own)
    assert pooled is not None  # there is a class
    channels = len(whole.mean)
    deficient = int(counts.min()) <= channels
    return StationaryCurves(
        dim=pooled.first[0].numel(),
        conditional=torch.stack(curves).mean(dim=0),
        unconditional=pooled.curves(scale, v),
        sizes=torch.bincount(block, minlength=blocks),
        flags=("rank-deficient: a class has no more images than channels",) * deficient,
    )


def curve_deviations(pixel: Tensor, latent: Tensor, pixel_dim: int, latent_dim: int) -> Tensor:
    """Return the deviations of a curve from that of pixel space at the same noise variances.

    Args:
        pixel: (..., 3) v FI / D, v^2 FIR / D and MMSE rate / D of the data in D dimensions.
        latent: (..., 3) the same of the latents in d dimensions.
        pixel_dim: D. latent_dim: d.

    Returns:
        (..., 5) in the order of ``fisher.deviation.DEVIATIONS``, >= 0 and 0 where nothing changes:
        |J_D/D - J_d/d| / (J_D/D); |F_D - F_d| / F_D, v^2 |F_D - F_d| / D and
        |F_D/D - F_d/d| / (F_D/D) (see ``FirDeviation``); |R_D - R_d| / R_D of the MMSE rate.
    """
    dims = latent_dim / pixel_dim
    fi, fir, rate = (latent / pixel).unbind(-1)
    scaled = (pixel[..., 1] - dims * latent[..., 1]).abs()
    gaps = (fi - 1, dims * fir - 1, scaled, fir - 1, dims * rate - 1)
    return torch.stack(gaps, dim=-1).abs()


@dataclass(frozen=True)
class _Moments:
    """Sums over the images of each block: (B,) counts, (B, S, C) first, (B, S, C, C) second."""

    counts: Tensor
    first: Tensor
    second: Tensor

    def plus(self, other: "_Moments") -> "_Moments":
        return _Moments(
            self.counts + other.counts, self.first + other.first, self.second + other.second
        )

    def curves(self, scale: Tensor, v: Sequence[float]) -> Tensor:
        """Return (1 + B, V, 3) of all images and without each block, at scale (1 + B, C)."""
        count, first, second = (s.sum(dim=0) for s in (self.counts, self.first, self.second))
        found = [_curve(count, first, second, scale[0], v)]
        for b, own in enumerate(scale[1:]):
            rest = (count - self.counts[b], first - self.first[b], second - self.second[b])
            found.append(_curve(*rest, own, v))
        return torch.stack(found)


def _curve(
    count: Tensor, first: Tensor, second: Tensor, scale: Tensor, v: Sequence[float]
) -> Tensor:
    """Return (V, 3) from sums of C channels at S frequencies."""
    mean = first / count  # (S, C)
    covariance = second / count - mean[:, :, None] * mean[:, None]  # (S, C, C)
    values = torch.linalg.eigvalsh(covariance * scale[:, None] * scale).clamp(min=0)  # (S, C)
    return gaussian_curve(values.flatten(), v)


def _chunks(images: Rows, chosen: Tensor) -> list[Tensor]:
    pixels = images.shape[1] * images.shape[2] * images.shape[3]
    return list(chosen.split(max(1, _CHUNK_BYTES // (8 * pixels))))


def _statistics(images: Rows, chosen: Tensor) -> ChannelStatistics:
    parts = (channel_statistics(images[part].double()) for part in _chunks(images, chosen))
    return reduce(ChannelStatistics.merge, parts)


def _scales(statistics: list[ChannelStatistics]) -> tuple[ChannelStatistics, Tensor]:
    """Return the z-score of all blocks, and (1 + B, C) its correction without each block.

    The mean of a channel drops out of every covariance.
    """
    whole = reduce(ChannelStatistics.merge, statistics)
    scale = [torch.ones_like(whole.std)]
    for b in range(len(statistics)):
        others = reduce(ChannelStatistics.merge, statistics[:b] + statistics[b + 1 :])
        scale.append(whole.std / others.std)
    return whole, torch.stack(scale).cpu()


def _moments(
    images: Rows, chosen: Tensor, block: Tensor, statistics: ChannelStatistics, blocks: int
) -> _Moments:
    """Return the moments of some images in the cosine basis, block by block."""
    channels, height, width = images.shape[1:]
    shape = (height * width, channels)
    moments = _Moments(
        torch.bincount(block, minlength=blocks).double(),
        torch.zeros(blocks, *shape, dtype=torch.float64),
        torch.zeros(blocks, *shape, channels, dtype=torch.float64),
    )
    for b in block.unique().tolist():
        for part in _chunks(images, chosen[block == b]):
            values = cosine_transform(normalise(images[part].double(), statistics))
            rows = values.flatten(2).permute(2, 0, 1)  # (S, m, C)
            moments.first[b] += rows.sum(dim=1).cpu()
            moments.second[b] += (rows.mT @ rows).cpu()
    return moments
