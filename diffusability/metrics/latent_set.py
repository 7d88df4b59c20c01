"""Input of every latent metric: validate, z-score and read latents in blocks."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.latents.channel_statistics import (
    ChannelStatistics,
    channel_statistics,
    collapsed,
    latent_blocks,
    normalise,
)
from diffusability.metrics.measurement import Measurement, flagged
from diffusability.study.metrics.metric_group import SmallestClass

ONE_CLASS = "one class: unconditional"  # flag of a metric of classes where there is one


class ImageVariation:
    """How much each channel varies from image to image, from blocks of latents."""

    def __init__(self) -> None:
        self._count, self._resolution = 0, 0.0
        self._first: Tensor | None = None  # (C, H, W), which the sums are relative to
        self._sum, self._square = torch.zeros(2, 1)  # (C, H, W)
        self._energy = torch.zeros(1)  # (C,)

    def add(self, latents: Tensor) -> None:
        """Add (B, C, H, W) latents of further images."""
        block = latents.to(torch.float64)  # (B, C, H, W)
        if self._first is None:
            self._first, self._resolution = block[0], torch.finfo(latents.dtype).eps
            self._sum, self._square = block.new_zeros(2, *block.shape[1:])  # (C, H, W) each
            self._energy = block.new_zeros(block.shape[1])  # (C,)
        change = block - self._first
        self._count += len(block)
        self._sum += change.sum(dim=0)
        self._square += change.square().sum(dim=0)
        self._energy += block.square().sum(dim=(0, 2, 3))

    def live_channels(self, fate: str = "left out") -> tuple[Tensor, tuple[str, ...]]:
        """Return the (c,) int64 channels that vary over images, and a flag that names the others.

        Args:
            fate: what the metric does with the others, for the flag.

        Raises:
            MeasurementError: none varies: the latents have collapsed.
        """
        variance = self._square - self._sum.square() / self._count  # (C, H, W), times N
        spread, energy = variance.mean(dim=(1, 2)), self._energy / variance[0].numel()  # (C,)
        alive = spread > self._resolution**2 * energy  # (C,)
        dead = torch.nonzero(~alive).flatten().tolist()
        if len(dead) == alive.numel():
            raise collapsed(f"all {self._count} images have the same latent, up to rounding")
        many = "s" * (len(dead) > 1)
        flags = (f"{len(dead)} dead channel{many} of {alive.numel()} {fate}: {dead}",) * bool(dead)
        return torch.nonzero(alive).flatten(), flags


class LatentSet:
    """A validated set of latents, read as float64, z-scored on request.

    A dead channel, one that is the same in every image up to rounding, says nothing about images:
    it is left out, and `flags` names it.

    Args:
        latents: (N, C, H, W), any floating dtype, may be memory-mapped; in latent units.
        flags: what a reader of every measurement of this set must know.

    Raises:
        MeasurementError: wrong shape, non-finite values, fewer than two images, or latents that are
            the same in every image.
    """

    def __init__(self, latents: Tensor, flags: tuple[str, ...] = ()) -> None:
        statistics = channel_statistics(latents)
        if latents.shape[0] < 2:
            raise MeasurementError("One image is not enough; give at least two")
        variation = ImageVariation()
        for images in latent_blocks(latents):
            variation.add(latents[images])
        live, dead = variation.live_channels()
        self.flags = (*flags, *dead)
        self.live = live  # (c,) int64, the channels that are kept
        if dead:
            latents = latents[:, live]
            mean, scatter = statistics.mean[live], statistics.scatter[live]
            statistics = replace(statistics, mean=mean, scatter=scatter)
        self.statistics: ChannelStatistics = statistics
        self.latents = latents
        self.count, self.channels, self.height, self.width = latents.shape

    def flagged(self, measurements: Iterable[Measurement]) -> list[Measurement]:
        """Return measurements of this set with its flags."""
        return flagged(measurements, *self.flags)

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


def classes_of_enough(
    labels: Tensor, least: int, smallest_class: SmallestClass
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the images of classes that are large enough to be measured.

    Args:
        labels: (N,) integer class numbers.
        least: number of images that a class needs.
        smallest_class: what happens to smaller ones; "refuse" keeps them, for the metric to refuse.

    Returns:
        (n,) int64 positions, in order, and a flag that counts the classes that are left out.

    Raises:
        MeasurementError: no class is large enough.
    """
    _, index, sizes = labels.unique(return_inverse=True, return_counts=True)
    small = sizes < least  # (K,)
    if smallest_class == "refuse" or not bool(small.any()):
        return torch.arange(labels.numel(), device=labels.device), ()
    if bool(small.all()):
        raise MeasurementError(
            f"none of {small.numel()} classes has {least} images: none is left to measure"
        )
    kept = torch.nonzero(~small[index]).flatten()  # (n,)
    lost = labels.numel() - kept.numel()
    return kept, (
        f"{int(small.sum())} of {small.numel()} classes left out: fewer than {least} images "
        f"({lost} images)",
    )


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
