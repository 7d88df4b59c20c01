"""A set of labelled images, with foreground masks and a train/validation split."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diffusability.statistics import require_finite


class Rows(Protocol):
    """Rows of an (N, ...) tensor: a tensor, or an object whose rows are loaded when indexed."""

    @property
    def shape(self) -> torch.Size:
        """Sizes, the number of rows first."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: Tensor | slice, /) -> Tensor:
        """Return the chosen rows, (n,) int64 or a slice, in memory."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one dataset, in a fixed order.

    Attributes:
        images: (N, C, H, W) uint8; of an image folder they are decoded where they are indexed.
        labels: (N,) int64 in 0 ... num_classes - 1.
        masks: (N, H, W) bool, foreground; an image without a mask has no foreground, and
            metrics on foregrounds leave it out.
        validation: (N,) bool, held out from every training.
        num_classes: number of classes.
        masked: whether any image has a mask.
        undecided: (N, H, W) bool, pixels that the masks call neither foreground nor background;
            None: there are none.
    """

    images: Rows
    labels: Tensor
    masks: Rows
    validation: Tensor
    num_classes: int
    masked: bool = True
    undecided: Rows | None = None

    def split(self, name: str) -> Tensor:
        """Return the (n,) int64 indices of the split "train", "val" or "all"."""
        everything = torch.ones_like(self.validation)
        chosen = {"train": ~self.validation, "val": self.validation, "all": everything}[name]
        return chosen.nonzero().squeeze(1)

    def digest(self) -> str:
        """Return a SHA-256 over images, labels, masks and split; every image is read."""
        sha = hashlib.sha256()
        everything = slice(None)
        images, masks = self.images[everything], self.masks[everything]
        for tensor in (images, self.labels, masks, self.validation):
            sha.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return sha.hexdigest()


def thinned(chosen: Tensor, count: int, labels: Tensor | None = None) -> Tensor:
    """Return `count` of (n,) indices in their order, or all; evenly, as they may be sorted.

    Args:
        chosen: (n,) indices.
        count: how many.
        labels: (n,) classes of these indices: each class gets its share also where classes
            alternate, as every tenth index could be of one class.
    """
    count = min(count, len(chosen))
    places = torch.arange(count) * len(chosen) // max(1, count)
    if labels is not None:
        places = labels.argsort(stable=True)[places].sort().values
    return chosen[places]


def in_batches(rows: Rows, chosen: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the chosen rows, (n,) int64, `size` at a time, reading one batch ahead."""
    if not len(chosen):
        return
    first, *others = chosen.split(size)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(rows.__getitem__, first)
        for following in others:
            batch, ahead = ahead.result(), reader.submit(rows.__getitem__, following)
            yield batch
        yield ahead.result()


def to_float(images: Tensor) -> Tensor:
    """Map uint8 0 ... 255 to float32 -1 ... 1."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor, what: str = "images") -> Tensor:
    """Map floats to uint8 as VA-VAE and ADM do: clamp(127.5 x + 128, 0, 255), truncated.

    Args:
        images: (N, C, H, W), nominally -1 ... 1.
        what: what they are and what made them, for the message.

    Raises:
        MeasurementError: images are not finite: NaN would become black, without a trace.
    """
    require_finite(images, what)
    return (images.float() * 127.5 + 128.0).clamp(0, 255).to(torch.uint8)


def stratified_validation(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return an (N,) bool mask that holds out round(fraction x n) images of every class."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        chosen = torch.randperm(len(members), generator=generator)
        held_out[members[chosen[: round(fraction * len(members))]]] = True
    return held_out
