"""The digits: real scans, enlarged exactly, split by class, with ink as foreground."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as scans
from sklearn.datasets import load_sample_images

from diffusability.data.bundled import bundled_file
from diffusability.data.digits import load_digits
from diffusability.data.images import stratified_validation, to_float, to_uint8
from diffusability.data.shapes import PHOTOGRAPHS
from diffusability.errors import DataError
from diffusability.latents.shards import pool_masks
from diffusability.study.entries.pixel_dataset import DIGITS_IMAGES, DigitsDataset


def test_images_are_the_scans() -> None:
    data = load_digits(DigitsDataset(kind="digits", size=8))
    assert data.images.shape == (DIGITS_IMAGES, 1, 8, 8)
    expected = np.rint(scans().images * 255 / 16).astype(np.uint8)
    assert np.array_equal(data.images[:, 0].numpy(), expected)
    assert np.array_equal(data.labels.numpy(), scans().target)


def test_enlargement_by_hand() -> None:
    small = scans().images[0]
    large = load_digits(DigitsDataset(kind="digits", size=16)).images[0, 0]
    # bilinear, pixel centres: output pixel (3, 4) lies at (1.25, 1.75) of the small image
    value = 0.75 * (0.25 * small[1, 1] + 0.75 * small[1, 2]) + 0.25 * (
        0.25 * small[2, 1] + 0.75 * small[2, 2]
    )
    assert large[3, 4].item() == round(value * 255 / 16)


def test_split_is_stratified_and_fixed() -> None:
    data = load_digits(DigitsDataset(kind="digits", size=8, val_fraction=0.25))
    for label in range(10):
        members = data.labels == label
        held = (data.validation & members).sum().item()
        assert held == round(0.25 * members.sum().item())
    assert len(data.split("train")) + len(data.split("val")) == len(data.split("all"))
    again = load_digits(DigitsDataset(kind="digits", size=8, val_fraction=0.25))
    assert data.digest() == again.digest()
    other = load_digits(DigitsDataset(kind="digits", size=8, val_fraction=0.2))
    assert data.digest() != other.digest()
    labels = torch.tensor([0] * 4 + [1] * 4)
    assert not torch.equal(
        stratified_validation(labels, 0.5, 0), stratified_validation(labels, 0.5, 1)
    )


def test_masks_cover_the_ink() -> None:
    data = load_digits(DigitsDataset(kind="digits", size=16))
    inside = data.images[:, 0][data.masks].float().mean()
    outside = data.images[:, 0][~data.masks].float().mean()
    assert inside > 150
    assert outside < 20
    assert 0.2 < data.masks.float().mean() < 0.5


def test_masks_pool_to_shares() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 2:, 2:] = True
    pooled = pool_masks(masks, (2, 2))
    assert torch.equal(pooled, torch.tensor([[[0.25, 0.0], [0.0, 1.0]]]))


def test_pixel_ranges_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_float(levels).min() == -1
    assert to_float(levels).max() == 1
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_uint8(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


def test_the_photographs_are_those_of_scikit_learn() -> None:
    assert [str(bundled_file(name)) for name in PHOTOGRAPHS] == load_sample_images().filenames


def test_files_of_scikit_learn_are_read_without_importing_it() -> None:
    """The import took a second of every job."""
    program = """if True:
        import sys
        from diffusability.data.load import data_source

        data_source({"kind": "digits", "size": 8}).load()
        data_source({"kind": "shapes", "size": 16, "train": 128, "val": 128}).load()
        print("sklearn" in sys.modules)
    """
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"


def test_a_missing_file_of_scikit_learn_is_named() -> None:
    with pytest.raises(DataError, match="papyrus.jpg does not exist in this version"):
        bundled_file("images/papyrus.jpg")
