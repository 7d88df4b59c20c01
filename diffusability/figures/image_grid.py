"""Many small images as one picture."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

SHORTEST_SIDE = 48  # pixels to which tiny images are enlarged, by whole factors
GAP = 2  # pixels between images


def write_image_grid(path: Path, images: Tensor, columns: int) -> None:
    """Write (N, C, H, W) uint8 images, 1 or 3 channels, row by row, as a PNG.

    Small images are enlarged without interpolation, so that their pixels can be seen.
    """
    pixels = images.permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
    factor = max(1, -(-SHORTEST_SIDE // min(pixels.shape[1:3])))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, channels = pixels.shape
    rows = -(-count // columns)
    canvas = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 255, np.uint8
    )
    for k, image in enumerate(pixels):
        top = GAP + (k // columns) * (height + GAP)
        left = GAP + (k % columns) * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas).save(path)
