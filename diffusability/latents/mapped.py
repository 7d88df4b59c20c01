"""Tensors in shard files, read only where they are indexed."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.latents.channel_statistics import ChannelStatistics, normalise


class MappedTensor:
    """Memory-mapped shards as one (N, ...) tensor that supports indexing only.

    Rows are read when they are indexed. The page cache keeps what was read only while memory is
    free, so the set may be larger than the memory.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        dtype: torch.dtype,
        check: Callable[[int], None] | None = None,
    ) -> None:
        """Join mapped shards (n, ...), of equal n but for the last; rows have `dtype`.

        `check` is called with the number of a shard before its first row is read.
        """
        self._parts, self._per_shard, self.dtype = list(parts), len(parts[0]), dtype
        self._check = check
        self._unchecked = {} if check is None else {k: threading.Lock() for k in range(len(parts))}
        rows = sum(len(part) for part in parts)
        self.shape = torch.Size((rows, *parts[0].shape[1:]))

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        """Return the chosen rows, (n,) int64 or a slice, in memory."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]  # (n,)
        chosen = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        shards = rows.div(self._per_shard, rounding_mode="floor")  # (n,)
        for shard in shards.unique().tolist():
            found = (shards == shard).nonzero().squeeze(1)
            part = self._part(shard)[rows[found] - shard * self._per_shard]
            chosen[found] = part.to(self.dtype)
        return chosen

    def rounded_to(self, rows: Tensor) -> torch.dtype | None:
        """Return the type that any of the (n,) rows is stored in, if it is shorter than `dtype`."""
        shards = rows.div(self._per_shard, rounding_mode="floor").unique().tolist()
        shorter = [self._parts[k].dtype for k in shards]
        return next((d for d in shorter if d.itemsize < self.dtype.itemsize), None)

    def _part(self, shard: int) -> Tensor:
        """Return a shard, checked once; other threads may check other shards meanwhile."""
        lock = self._unchecked.get(shard)
        if lock is not None and self._check is not None:
            with lock:
                if shard in self._unchecked:
                    self._check(shard)
                    del self._unchecked[shard]
        return self._parts[shard]


class ChosenLatents:
    """The latents of some images, z-scored or raw, as one (n, C, h, w) tensor on disk."""

    def __init__(
        self, latents: MappedTensor, images: Tensor, statistics: ChannelStatistics | None = None
    ) -> None:
        """Store the (n,) image indices; with channel statistics, z-scores are read.

        Nothing is read yet.
        """
        self._latents, self._images, self._statistics = latents, images, statistics
        self.shape = torch.Size((len(images), *latents.shape[1:]))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        """Return the chosen rows, (k,) int64 or a slice, as (k, C, h, w) in memory."""
        raw = self._latents[self._images[rows]]
        return raw if self._statistics is None else normalise(raw, self._statistics)


@dataclass(frozen=True)
class Latents:
    """The latents of some images, in memory.

    Attributes:
        mean: (N, C, h, w) float32 posterior means.
        logvar: (N, C, h, w) float32 posterior log-variances.
        labels: (N,) int64.
        foreground: (N, h, w) float32, share of foreground pixels in each cell, 0 ... 1.
    """

    mean: Tensor
    logvar: Tensor
    labels: Tensor
    foreground: Tensor

    def __getitem__(self, images: Tensor) -> "Latents":
        """Return the chosen images, (n,) int64."""
        return Latents(
            self.mean[images], self.logvar[images], self.labels[images], self.foreground[images]
        )


@dataclass(frozen=True)
class MappedLatents:
    """The latents of every image of a dataset, in its order, on disk.

    Attributes:
        mean: (N, C, h, w) float32 posterior means.
        logvar: (N, C, h, w) float32 posterior log-variances.
        labels: (N,) int64, in memory.
        foreground: (N, h, w) float32, share of foreground pixels in each cell, 0 ... 1.
        mirrored: mean and log-variance of the mirrored images, or None if not encoded.
    """

    mean: MappedTensor
    logvar: MappedTensor
    labels: Tensor
    foreground: MappedTensor
    mirrored: tuple[MappedTensor, MappedTensor] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, images: Tensor) -> Latents:
        """Return the chosen images, (n,) int64, in memory."""
        return Latents(
            self.mean[images], self.logvar[images], self.labels[images], self.foreground[images]
        )
