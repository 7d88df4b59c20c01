"""A set of labelled images in memory, with foreground masks and a train/validation split."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images of one dataset, in a fixed order.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in 0 ... num_classes - 1.
        masks: (N, H, W) bool, foreground.
        validation: (N,) bool, held out from every training.
        num_classes: number of classes.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    validation: Tensor
    num_classes: int

    def split(self, name: str) -> Tensor:
        """Return the (n,) int64 indices of the split "train", "val" or "all"."""
        everything = torch.ones_like(self.validation)
        chosen = {"train": ~self.validation, "val": self.validation, "all": everything}[name]
        return chosen.nonzero().squeeze(1)

    def digest(self) -> str:
        """Return a SHA-256 over images, labels, masks and split."""
        sha = hashlib.sha256()
        for tensor in (self.images, self.labels, self.masks, self.validation):
            sha.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return sha.hexdigest()


def to_float(images: Tensor) -> Tensor:
    """Map uint8 0 ... 255 to float32 -1 ... 1."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Map floats to uint8 as VA-VAE and ADM do: clamp(127.5 x + 128, 0, 255), truncated."""
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
