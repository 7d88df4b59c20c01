"""Scikit-learn's handwritten digits: real scans bundled with the library."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusability.data.bundled import bundled_file
from diffusability.data.images import ImageSet, stratified_validation
from diffusability.data.load import DataSource
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.entries.pixel_dataset import DigitsDataset

DIGITS = "data/digits.csv.gz"  # 64 pixels and the label of one scan per line
SCAN = 8
GREY_LEVELS = 16  # the scans count inked pixels in 4 x 4 blocks: 0 ... 16
INK = 0.25  # a pixel is foreground from a quarter of the full ink


class Digits(DataSource[DigitsDataset]):
    """The digits, as scikit-learn ships them."""

    def first_stored(self) -> tuple[str, tuple[int, int]]:
        """Return the size of every scan; see `DataSource.first_stored`."""
        return "scikit-learn's digits", (SCAN, SCAN)

    def load(self) -> ImageSet:
        """Return all 1,797."""
        return load_digits(self.spec)


def load_digits(spec: DigitsDataset) -> ImageSet:
    """Return the 1,797 digits, enlarged bilinearly, white ink (255) on black (0)."""
    small, labels = _scans()  # (N, 1, 8, 8) in 0 ... 16, (N,)
    ink = _enlarge(small, spec.size) / GREY_LEVELS  # (N, 1, S, S) in 0 ... 1
    return ImageSet(
        images=(ink * 255).round().to(torch.uint8),
        labels=labels,
        masks=ink[:, 0] >= INK,
        validation=stratified_validation(labels, spec.val_fraction, derive_seed("digits split")),
        num_classes=spec.num_classes,
    )


def _scans() -> tuple[Tensor, Tensor]:
    """Return the pixels (1797, 1, 8, 8) of `sklearn.datasets.load_digits` and their labels."""
    rows = np.loadtxt(bundled_file(DIGITS), delimiter=",")
    pixels, labels = torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, -1])
    return pixels.float().reshape(-1, 1, SCAN, SCAN), labels.long()


def _enlarge(images: Tensor, size: int) -> Tensor:
    """Resize (N, 1, 8, 8) bilinearly; exact in float32, the weights are dyadic."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
