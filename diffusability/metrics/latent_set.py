"""Input of every latent metric: validate, z-score and read latents in blocks."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.latents.channel_statistics import (
    ChannelStatistics,
    channel_statistics,
    latent_blocks,
    normalise,
)


class LatentSet:
    """A validated set of latents, read as float64, z-scored on request.

    Args:
        latents: (N, C, H, W), any floating dtype, may be memory-mapped; in latent units.

    Raises:
        MeasurementError: wrong shape, non-finite values, or fewer than two images.
    """

    def __init__(self, latents: Tensor) -> None:
        self.statistics: ChannelStatistics = channel_statistics(latents)
        if latents.shape[0] < 2:
            raise MeasurementError("One image is not enough; give at least two")
        self.latents = latents
        self.count, self.channels, self.height, self.width = latents.shape

    @property
    def device(self) -> torch.device:
        """Return the device that the statistics are computed on."""
        return self.latents.device

    def read(self, images: slice | Tensor, normalised: bool) -> Tensor:
        """Return (B, C, H, W) float64 of the chosen images, z-scored per channel on request."""
        block = self.latents[images].to(torch.float64)  # (B, C, H, W)
        return normalise(block, self.statistics) if normalised else block

    def blocks(
        self, normalised: bool, bytes_per_image: int | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of images with their (B, C, H, W) float64 latents, in order."""
        for images in latent_blocks(self.latents, bytes_per_image):
            yield images, self.read(images, normalised)


def check_labels(labels: Tensor, count: int) -> Tensor:
    """Refuse labels that are not one non-negative integer per image.

    Args:
        labels: (N,) integer class numbers, in any order, not necessarily contiguous.
        count: number of images N.

    Returns:
        (N,) int64 labels.

    Raises:
        MeasurementError: with what is wrong and where.
    """
    if labels.shape != (count,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise MeasurementError(
            f"Labels must be ({count},) integers, one per image; got shape {tuple(labels.shape)} "
            f"of {labels.dtype}"
        )
    if bool((labels < 0).any()):
        where = torch.nonzero(labels < 0).flatten()[:5].tolist()
        raise MeasurementError(f"Labels are out of range: negative at images {where}")
    return labels.to(torch.int64)


def check_masks(masks: Tensor, latents: LatentSet) -> Tensor:
    """Refuse foreground masks of another grid, outside [0, 1], or all without foreground.

    Args:
        masks: (N, H, W) fraction of each token's pixels that are foreground, in [0, 1].
        latents: the set that they belong to.

    Returns:
        (N, H, W) float64 masks on the latents' device.

    Raises:
        MeasurementError: with what is wrong and what to do.
    """
    expected = (latents.count, latents.height, latents.width)
    if tuple(masks.shape) != expected:
        raise MeasurementError(
            f"Masks have shape {tuple(masks.shape)}, the latent grid needs {expected}: pool "
            "them to the grid of this tokenizer"
        )
    checked = masks.to(latents.device, torch.float64)  # (N, H, W)
    if not bool(((checked >= 0) & (checked <= 1)).all()):  # NaN fails both comparisons
        raise MeasurementError("Masks must be foreground fractions in [0, 1]; some are not")
    if not bool((checked > 0).any()):
        raise MeasurementError("No mask has any foreground: the masks are empty or inverted")
    return checked
