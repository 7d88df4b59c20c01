"""ADM's centre crop and random crop of an image, as geometry that also cuts its mask.

Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (arXiv 2105.05233): halve with a
box filter while the shorter side is at least twice the target, resize bicubically, crop.
"""

import math
import random
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Crop:
    """A square of `side` pixels in an image that is first resized to `width` x `height`.

    Attributes:
        shorter: target of the image's shorter side, in pixels; determines the halvings.
        width, height: size of the whole resized image.
        left, top: corner of the square in it.
        side: of the square.
    """

    shorter: int
    width: int
    height: int
    left: int
    top: int
    side: int

    def of_image(self, image: Image.Image) -> Image.Image:
        """Return the (side, side) crop of an image in 8-bit channels."""
        while min(image.size) >= 2 * self.shorter:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        # resampling only the square by Pillow's `box` would be faster, but differs by some levels
        return self._cut(image.resize((self.width, self.height), Image.Resampling.BICUBIC))

    def of_mask(self, mask: Image.Image) -> Image.Image:
        """Return the same crop of a mask of the image's size, by nearest neighbour."""
        return self._cut(mask.resize((self.width, self.height), Image.Resampling.NEAREST))

    def _cut(self, resized: Image.Image) -> Image.Image:
        right, bottom = self.left + self.side, self.top + self.side
        return resized.crop((self.left, self.top, right, bottom))


def centre_crop(width: int, height: int, side: int) -> Crop:
    """Return the central square of a width x height image whose shorter side becomes `side`."""
    across, down = _resized(width, height, side)
    return Crop(side, across, down, (across - side) // 2, (down - side) // 2, side)


def random_crop(
    width: int, height: int, side: int, smallest: float, generator: random.Random
) -> Crop:
    """Return a random square of the image, resized by a random factor.

    Args:
        width, height: of the image, in pixels.
        side: of the square.
        smallest: least side of the square as a share of the resized image's shorter side, in
            (0, 1]: the shorter side is drawn from side ... side / smallest. ADM's is 0.8; with 1
            the size is that of the centre crop and only the position is drawn.
        generator: source of size and position.
    """
    shorter = generator.randint(side, math.ceil(side / smallest))
    across, down = _resized(width, height, shorter)
    left, top = generator.randint(0, across - side), generator.randint(0, down - side)
    return Crop(shorter, across, down, left, top, side)


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Return the size after ADM's halvings and its last resize."""
    while min(width, height) >= 2 * shorter:
        width, height = width // 2, height // 2
    scale = shorter / min(width, height)
    return round(width * scale), round(height * scale)
