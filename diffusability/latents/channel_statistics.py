"""Mean and standard deviation of every latent channel, streamed, mergeable, in float64.

Source: the per-channel normalisation that LightningDiT-style trainers and the latent metrics of
"Diffusing in the Right Space" (arXiv 2606.03578) share: statistics over (image, H, W), ddof = 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor

from diffusability.data.images import Rows
from diffusability.errors import MeasurementError
from diffusability.statistics import Moments

_BLOCK_BYTES = 16 * 2**20  # larger temporaries exceed the cache and are allocated anew each time
_READ_BYTES = 256 * 2**20  # of float32 latents read from disk at a time
_FLOAT64_BYTES = 8
_FLOAT64_RESOLUTION = 1e-12  # std of a constant channel relative to its mean, by rounding of sums


@dataclass(frozen=True, eq=False)
class ChannelStatistics(Moments):
    """First two moments of each channel.

    Attributes:
        count: number of values per channel, images * H * W.
        mean: (C,) float64, mean of each channel, in latent units.
        scatter: (C,) float64, sum of squared deviations from the mean.
        resolution: relative spacing of the floating-point numbers that were measured.
    """

    resolution: float = _FLOAT64_RESOLUTION

    def require_comparable(self, other: Self) -> None:
        """Refuse statistics of another number of channels."""
        if self.mean.shape != other.mean.shape:
            raise MeasurementError(
                f"Statistics of {self.mean.numel()} and of {other.mean.numel()} channels "
                "cannot be merged; they belong to different latent spaces"
            )

    @property
    def std(self) -> Tensor:
        """Return the (C,) float64 standard deviation with ddof = 1, in latent units."""
        if self.count < 2:
            raise MeasurementError("A standard deviation needs two values per channel; got one")
        return (self.scatter / (self.count - 1)).sqrt()  # (C,)

    @property
    def constant_channels(self) -> list[int]:
        """Return the indices of channels that do not vary, or only by rounding."""
        return torch.nonzero(self._constant).flatten().tolist()

    @property
    def _constant(self) -> Tensor:
        return self.std <= self.resolution * self.mean.abs()  # (C,)

    @property
    def scale(self) -> Tensor:
        """Return the (C,) float64 divisor of z-scores: the std, 1 for constant channels."""
        return self.std.where(~self._constant, torch.ones_like(self.std))

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as plain JSON values; float64 survives the round trip exactly."""
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "squared_deviation": self.scatter.tolist(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ChannelStatistics":
        """Return the statistics that ``to_json`` wrote, on the CPU."""
        return cls(
            int(values["count"]),
            torch.tensor(values["mean"], dtype=torch.float64),
            torch.tensor(values["squared_deviation"], dtype=torch.float64),
            torch.finfo(torch.float32).eps,  # latents on disk are float32
        )


def channel_statistics(latents: Rows, images: Tensor | None = None) -> ChannelStatistics:
    """Measure mean and spread of each channel over (image, H, W), block by block.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units; may be on disk.
        images: (n,) int64 images to measure; all if None.

    Returns:
        The statistics of the whole set, float64, on the latents' device.

    Raises:
        MeasurementError: the latents are not (N, C, H, W), are empty, or are not finite.
    """
    if images is None and not isinstance(latents, Tensor):
        images = torch.arange(len(latents))
    if images is not None:
        if not len(images):
            raise MeasurementError("No image is given: no latent to measure")
        rows = max(1, _READ_BYTES // (4 * latents.shape[1:].numel()))
        parts = (channel_statistics(latents[part]) for part in images.split(rows))
        return reduce(ChannelStatistics.merge, parts)
    whole = latents[:]
    check_latent_shape(whole)
    return reduce(ChannelStatistics.merge, (_of_block(whole, b) for b in latent_blocks(whole)))


def _of_block(latents: Tensor, images: slice) -> ChannelStatistics:
    """Return the statistics of a slice of images, computed at once."""
    block = latents[images].to(torch.float64)  # (B, C, H, W)
    _refuse_non_finite(block, images.start)
    mean = block.mean(dim=(0, 2, 3))  # (C,)
    scatter = (block - mean[:, None, None]).square().sum(dim=(0, 2, 3))  # (C,)
    count = block.numel() // block.shape[1]
    return ChannelStatistics(count, mean, scatter, _resolution(latents.dtype))


def mean_variance(logvar: Rows, images: Tensor) -> Tensor:
    """Return the mean posterior variance of each channel over (image, H, W).

    Args:
        logvar: (N, C, H, W) log-variances; may be on disk.
        images: (n,) int64 images to measure.

    Returns:
        (C,) float64, in squared latent units.
    """
    rows = max(1, _READ_BYTES // (4 * logvar.shape[1:].numel()))
    total = torch.zeros(logvar.shape[1], dtype=torch.float64)  # (C,)
    for part in images.split(rows):
        total += logvar[part].double().exp().mean(dim=(2, 3)).sum(dim=0).cpu()
    return total / len(images)


def normalise(latents: Tensor, statistics: ChannelStatistics) -> Tensor:
    """Subtract the mean of each channel and divide by its standard deviation.

    A constant channel is zero, so that it adds nothing to distances and cosines.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.
        statistics: of the set that defines the space, normally the training set.

    Returns:
        (N, C, H, W) z-scores in the dtype of ``latents``.

    Raises:
        MeasurementError: every channel is constant, or the channels do not match.
    """
    _check_channels(latents, statistics)
    if len(statistics.constant_channels) == statistics.mean.numel():
        raise collapsed(f"all {statistics.mean.numel()} channels are constant")
    mean, scale = _broadcastable(statistics, latents)  # (C, 1, 1) each
    scores = ((latents - mean) / scale).to(latents.dtype)  # (N, C, H, W)
    if constant := statistics.constant_channels:
        scores[:, constant] = 0.0  # not even the rounding of a constant
    return scores


def collapsed(reason: str) -> MeasurementError:
    """Return the error for latents that say nothing about their images."""
    return MeasurementError(
        f"The latents have collapsed: {reason}. No metric of them means anything; check the "
        "tokenizer's training, or leave it out of select.tokenizers"
    )


def denormalise(latents: Tensor, statistics: ChannelStatistics) -> Tensor:
    """Undo ``normalise``: multiply by the standard deviation of each channel and add its mean.

    Args:
        latents: (N, C, H, W) z-scores, any floating dtype.
        statistics: those that ``normalise`` was given.

    Returns:
        (N, C, H, W) in latent units, in the dtype of ``latents``.

    Raises:
        MeasurementError: the channels do not match.
    """
    _check_channels(latents, statistics)
    mean, scale = _broadcastable(statistics, latents)  # (C, 1, 1) each
    return (latents * scale + mean).to(latents.dtype)  # (N, C, H, W)


def latent_blocks(latents: Tensor, bytes_per_image: int | None = None) -> Iterator[slice]:
    """Split the images into slices whose float64 copies take about 16 MiB.

    Args:
        latents: (N, C, H, W).
        bytes_per_image: memory that one image needs; its own float64 copy if None.

    Returns:
        Slices of the first axis, in order, covering every image once.
    """
    needed = bytes_per_image or latents[0].numel() * _FLOAT64_BYTES
    step = max(1, _BLOCK_BYTES // needed)
    count = latents.shape[0]
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def check_latent_shape(latents: Tensor) -> None:
    """Refuse anything but a non-empty floating (N, C, H, W) tensor.

    Raises:
        MeasurementError: with the shape and dtype that were given.
    """
    if latents.ndim != 4 or latents.numel() == 0 or not latents.is_floating_point():
        raise MeasurementError(
            f"Latents must be a non-empty floating (N, C, H, W) tensor; got shape "
            f"{tuple(latents.shape)} of {latents.dtype}"
        )


def _resolution(dtype: torch.dtype) -> float:
    return _FLOAT64_RESOLUTION if dtype == torch.float64 else torch.finfo(dtype).eps


def _refuse_non_finite(block: Tensor, first_image: int) -> None:
    """Name the first images of a block that hold NaN or infinity."""
    finite = torch.isfinite(block).flatten(1).all(dim=1)  # (B,)
    if not bool(finite.all()):
        bad = (torch.nonzero(~finite).flatten() + first_image).tolist()
        raise MeasurementError(
            f"Latents are not finite in {len(bad)} images of the block from image {first_image}, "
            f"first {bad[:5]}: the tokenizer diverged or the file is damaged; encode again"
        )


def _check_channels(latents: Tensor, statistics: ChannelStatistics) -> None:
    """Refuse latents whose channel number is not that of the statistics."""
    check_latent_shape(latents)
    if latents.shape[1] != statistics.mean.numel():
        raise MeasurementError(
            f"Latents have {latents.shape[1]} channels, their statistics "
            f"{statistics.mean.numel()}: they belong to different latent spaces"
        )


def _broadcastable(statistics: ChannelStatistics, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and scale as (C, 1, 1) on the latents' device, in float32 or wider.

    Half-precision latents are promoted: a mean rounded to bfloat16 would shift every z-score.
    """
    dtype = torch.promote_types(latents.dtype, torch.float32)
    mean = statistics.mean.to(latents.device, dtype)[:, None, None]  # (C, 1, 1)
    scale = statistics.scale.to(latents.device, dtype)[:, None, None]  # (C, 1, 1)
    return mean, scale
