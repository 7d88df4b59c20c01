"""A picture of many images: each stands in its place, whole and upright."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusability.figures.image_grid import GAP, write_image_grid


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_row_by_row(tmp_path: Path, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, channels, 20, 30), generator=generator, dtype=torch.uint8)
    write_image_grid(tmp_path / "grid.png", images, columns=2)
    found = np.asarray(Image.open(tmp_path / "grid.png"))
    factor = 3  # 20 pixels become 60, not below 48
    height, width = 20 * factor, 30 * factor
    assert found.shape[:2] == (3 * (height + GAP) + GAP, 2 * (width + GAP) + GAP)
    for k, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]):
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        block = found[top : top + height, left : left + width].reshape(height, width, channels)
        small = block[::factor, ::factor]
        np.testing.assert_array_equal(small, images[k].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(block, small.repeat(factor, 0).repeat(factor, 1))
    assert (found[-height - GAP :, width + 2 * GAP :] == 255).all()  # no sixth image
