"""Random views of images: what a contrastive encoder should not distinguish."""

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_CROP = 0.7  # side of the smallest crop, as a share of the image's
CONTRAST = 0.4  # largest relative change of contrast, and of a colour channel's gain
BRIGHTNESS = 0.2  # largest change of brightness, where images span -1 ... 1
CUT_OUT = 0.25  # side of the cut-out square, as a share of the image's


def may_flip(image_channels: int) -> bool:
    """Return whether a mirrored image still shows the same thing.

    Colour images show objects, which have a left and a right view. Grey images here are glyphs
    (the digits), whose mirror images are other signs or none.
    """
    return image_channels == 3


def random_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return one random view of every image.

    Cropped and shifted, mirrored where `may_flip`, changed in brightness, contrast and (three
    channels) colour, with a square cut out: the augmentations of SimCLR (Chen et al., arXiv
    2002.05709, section 3) for small images, and cut-out (DeVries and Taylor, arXiv 1708.04552).

    Args:
        images: (B, C, H, W) floats in -1 ... 1.
        generator: on the images' device; each image draws its own view.

    Returns:
        Images of the same shape and range.
    """
    channels = images.shape[1]
    moved = _crop(images, may_flip(channels), generator)
    return _cut_out(_jitter(moved, colour=channels == 3, generator=generator), generator)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return low + (high - low) * drawn


def _crop(images: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Enlarge a random square part of every image to the whole, mirrored half of the time."""
    count = len(images)
    side = _uniform((count,), SMALLEST_CROP, 1.0, generator)
    centre = _uniform((count, 2), -1.0, 1.0, generator) * (1 - side)[:, None]
    mirror = torch.ones_like(side)
    if flip:
        mirror = torch.where(_uniform((count,), 0.0, 1.0, generator) < 0.5, -mirror, mirror)
    affine = torch.zeros(count, 2, 3, device=images.device)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = side * mirror, side, centre
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _jitter(images: Tensor, colour: bool, generator: torch.Generator) -> Tensor:
    """Change contrast about the image's mean, brightness and, with colour, each channel's gain."""
    count, channels = images.shape[:2]
    mean = images.mean((1, 2, 3), keepdim=True)
    contrast = _uniform((count, 1, 1, 1), 1 - CONTRAST, 1 + CONTRAST, generator)
    brightness = _uniform((count, 1, 1, 1), -BRIGHTNESS, BRIGHTNESS, generator)
    changed = mean + contrast * (images - mean) + brightness
    if colour:
        gain = _uniform((count, channels, 1, 1), 1 - CONTRAST, 1 + CONTRAST, generator)
        changed = gain * (changed + 1) - 1  # of light, which is 0 where the pixel is -1
    return changed.clamp(-1, 1)


def _cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    """Fill one random square of every image with the middle of the range."""
    count, _, height, width = images.shape
    side = max(1, round(CUT_OUT * min(height, width)))
    corner = _uniform((count, 2), 0.0, 1.0, generator)
    top = (corner[:, 0] * (height - side + 1)).long()[:, None]  # (B, 1)
    left = (corner[:, 1] * (width - side + 1)).long()[:, None]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    in_rows = (rows >= top) & (rows < top + side)  # (B, H)
    in_columns = (columns >= left) & (columns < left + side)  # (B, W)
    hidden = in_rows[:, :, None] & in_columns[:, None, :]  # (B, H, W)
    return images.masked_fill(hidden[:, None], 0.0)
