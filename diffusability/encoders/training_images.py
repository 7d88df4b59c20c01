"""What the training of an encoder asks of images: batches of floats by index."""

from typing import Protocol

import torch
from torch import Tensor

from diffusability.data.images import to_float


class TrainingImages(Protocol):
    """Images that are gathered batch by batch; a tensor of them will do."""

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """Return the (B, C, H, W) floats in -1 ... 1 of (B,) int64 indices, on the device."""


class ResidentImages:
    """Images that lie on the device as bytes and become floats in the batch that needs them."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        """Move (N, C, H, W) uint8 images to the device."""
        self._images = images.to(device)

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """Return the images of (B,) indices; see `TrainingImages`."""
        return to_float(self._images[indices.to(self._images.device)])
