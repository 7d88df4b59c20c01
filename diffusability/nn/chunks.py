"""How many images go through a network at once where nothing is trained."""

from collections.abc import Sequence

import torch
from torch import Tensor

PIXELS_AT_ONCE = 16 * 256**2  # SD-VAE then decodes within about 5 GB, whatever the image size


def chunks(batch: Tensor, pixels: int | None = None) -> tuple[Tensor, ...]:
    """Cut a batch into parts whose images have PIXELS_AT_ONCE pixels, at least one image each.

    Args:
        batch: (B, C, H, W) images, or latents.
        pixels: H·W of an image, where the batch holds latents.
    """
    if pixels is None:
        pixels = batch.shape[-2:].numel()
    return batch.split(max(1, PIXELS_AT_ONCE // pixels))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return (b, ...) parts as one tensor; a single part is returned as it is laid out."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
