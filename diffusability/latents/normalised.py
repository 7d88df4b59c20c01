"""Normalised latents of many images: read where they are indexed, never all in memory."""

from functools import reduce

import torch
from torch import Tensor

from diffusability.latents.channel_statistics import (
    ChannelStatistics,
    channel_statistics,
    normalise,
)
from diffusability.latents.mapped import MappedTensor

CHUNK = 16384  # images in memory at a time


def mapped_statistics(latents: MappedTensor, images: Tensor) -> ChannelStatistics:
    """Return the channel statistics of the latents of (n,) images, a chunk at a time."""
    parts = (channel_statistics(latents[part]) for part in images.split(CHUNK))
    return reduce(ChannelStatistics.merge, parts)


class NormalisedLatents:
    """The z-scores of the latents of some images, as one (n, C, h, w) tensor on disk."""

    def __init__(
        self, latents: MappedTensor, images: Tensor, statistics: ChannelStatistics
    ) -> None:
        """Name the (n,) images and what their latents are normalised by; nothing is read."""
        self._latents, self._images, self._statistics = latents, images, statistics
        self.shape = torch.Size((len(images), *latents.shape[1:]))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        """Return the chosen rows, (k,) int64 or a slice, as (k, C, h, w) in memory."""
        return normalise(self._latents[self._images[rows]], self._statistics)
