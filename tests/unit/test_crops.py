"""ADM's crops: bit for bit those of a slow restatement, and seeded."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusability.data.crops import centre_crop, random_crop

SIDES = st.integers(5, 150)


def noise(width: int, height: int) -> Image.Image:
    """Return an image in which every pixel tells."""
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def restated(image: Image.Image, shorter: int) -> np.ndarray:
    """Resize until the shorter side is `shorter`, as the paper's appendix words it."""
    while min(image.size) >= 2 * shorter:
        image = image.resize((image.size[0] // 2, image.size[1] // 2), Image.Resampling.BOX)
    factor = shorter / min(image.size)
    wanted = (round(image.size[0] * factor), round(image.size[1] * factor))
    return np.asarray(image.resize(wanted, Image.Resampling.BICUBIC))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from([8, 16, 33, 64]))
def test_centre_crop_is_the_restated_one(width: int, height: int, side: int) -> None:
    image = noise(width, height)
    whole = restated(image, side)
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    seen = np.asarray(centre_crop(width, height, side).of_image(image))
    assert np.array_equal(seen, whole[top : top + side, left : left + side])


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from([8, 16, 33]), st.integers(0, 2**63 - 1))
def test_random_crop_is_a_square_of_the_resized_image(
    width: int, height: int, side: int, seed: int
) -> None:
    image = noise(width, height)
    crop = random_crop(width, height, side, 0.8, random.Random(seed))
    assert side <= crop.shorter <= math.ceil(side / 0.8)
    whole = restated(image, crop.shorter)
    assert (crop.height, crop.width) == whole.shape[:2]
    square = whole[crop.top : crop.top + side, crop.left : crop.left + side]
    assert square.shape == (side, side, 3)
    assert np.array_equal(np.asarray(crop.of_image(image)), square)


def test_random_crops_reach_every_place_and_size() -> None:
    crops = [random_crop(24, 20, 16, 0.8, random.Random(k)) for k in range(3000)]
    assert {crop.shorter for crop in crops} == set(range(16, 21))
    largest = [crop for crop in crops if crop.shorter == 20]  # 24 x 20
    assert {(crop.left, crop.top) for crop in largest} == {
        (x, y) for x in range(9) for y in range(5)
    }
    share = sum(crop.shorter == 16 for crop in crops) / len(crops)
    assert share == pytest.approx(1 / 5, abs=4 * math.sqrt(0.2 * 0.8 / 3000))
    placed = {random_crop(24, 20, 16, 1.0, random.Random(k)).shorter for k in range(50)}
    assert placed == {16}


def test_mask_is_cut_where_the_image_is() -> None:
    # a bright rectangle on black, enlarged and reduced: the mask follows it to within a pixel
    for width, height, side in ((40, 64, 16), (300, 200, 32), (20, 24, 48)):
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[height // 4 : height // 2, width // 3 :] = 255
        crop = centre_crop(width, height, side)
        image = np.asarray(crop.of_image(Image.fromarray(pixels)))[..., 0] > 127
        mask = np.asarray(crop.of_mask(Image.fromarray(pixels[..., 0])))
        assert set(np.unique(mask)) == {0, 255}
        differing = image != (mask > 0)
        assert differing.sum() <= 2 * side  # at most a pixel along two edges
        assert 0.05 < image.mean() < 0.6


def test_mask_of_the_wanted_size_is_unchanged() -> None:
    values = np.asarray(noise(16, 16).convert("L"))
    assert np.array_equal(
        np.asarray(centre_crop(16, 16, 16).of_mask(Image.fromarray(values))), values
    )
