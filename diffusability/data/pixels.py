"""Small images stored as plain pixels: what their kinds of files have in common.

They are read whole, which takes about a second: all of Fashion-MNIST are 55 MB, of CIFAR 184 MB.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffusability.data.crops import centre_crop
from diffusability.data.images import ImageSet
from diffusability.data.load import OwnFiles
from diffusability.errors import DataError
from diffusability.study.entries.pixel_dataset import PixelDataset

Entry = TypeVar("Entry", bound=PixelDataset)
Bytes = NDArray[np.uint8]
SPLITS = ("train", "val")  # keys of the entry: images that are taken of each split


class Split(NamedTuple):
    """Images (n, C, H, W) uint8 and labels (n,) uint8 of one split; their file, for messages."""

    images: Bytes
    labels: Bytes
    file: Path


class PixelFiles(OwnFiles[Entry]):
    """Files of pixels; a kind defines `read`, and `masks` where it has any."""

    keys = ("path",)

    def read(self) -> tuple[Split, Split]:
        """Return the training and the validation split as they are stored.

        Raises:
            DataError: a file is missing, damaged, or of another format.
        """
        raise NotImplementedError(f"{type(self).__name__}: define read")

    def masks(self, images: Tensor) -> Tensor | None:
        """Return the foreground (N, H, W) bool of images (N, C, H, W); None if there is none."""
        return None

    def first_stored(self) -> tuple[str, tuple[int, int]] | None:
        """Return the size of every image, unless black pixels are put around them."""
        if self.spec.fit == "pad":
            return None
        train, _ = self.read()
        height, width = train.images.shape[2:]
        return str(train.file), (width, height)

    def check(self) -> None:
        """Compare labels and the size of images with the study; see `DataSource.check`."""
        for split, key in zip(self.read(), SPLITS, strict=True):
            self._check(split, key)
            self._fitted(split.images[:1].copy(), split.file)

    def load(self) -> ImageSet:
        """Return the chosen images of both splits, training first."""
        spec = self.spec
        stored = self.read()
        parts = []
        for split, key in zip(stored, SPLITS, strict=True):
            count = self._check(split, key)
            chosen = _first_of_every_class(split.labels, count)
            pixels = self._fitted(split.images[chosen], split.file)
            parts.append((pixels, torch.from_numpy(split.labels[chosen]).long()))
        images, labels = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        validation = torch.arange(len(labels)) >= len(parts[0][1])
        masks = self.masks(images)
        masked = masks is not None
        if masks is None:
            masks = torch.zeros(1, 1, 1, dtype=torch.bool).expand(len(labels), *images.shape[2:])
        return ImageSet(images, labels, masks, validation, spec.num_classes, masked)

    def prepare(self, folder: Path, published: Path) -> tuple[ImageSet, dict[str, Any]]:
        """Prepare the images; see `OwnFiles.prepare`.

        Raises:
            DataError: the files are no longer those that the study was planned with.
        """
        if self.spec.content not in (None, self.spec.content_now()):
            raise DataError(
                f"{self.spec.path}: the files changed after the study was planned; start it again"
            )
        return super().prepare(folder, published)

    def _check(self, split: Split, key: str) -> int | None:
        """Refuse a split that is not as declared; return how many images the study takes of it."""
        _compare_labels(split, self.spec.num_classes)
        count: int | None = getattr(self.spec, key)
        if count is not None and count > len(split.labels):
            raise DataError(
                f"{split.file}: {len(split.labels)} images, the study has {key}: {count}"
            )
        return count

    def _fitted(self, pixels: Bytes, file: Path) -> Tensor:
        """Return the images (n, C, H, W) as (n, C, S, S)."""
        side = self.spec.size
        height, width = pixels.shape[2:]
        if (height, width) == (side, side):
            return torch.from_numpy(np.ascontiguousarray(pixels))
        if self.spec.fit == "resize":
            crop = centre_crop(width, height, side)
            out = np.empty((*pixels.shape[:2], side, side), dtype=np.uint8)
            for image, resized in zip(pixels, out, strict=True):
                for channel, target in zip(image, resized, strict=True):
                    target[:] = np.asarray(crop.of_image(Image.fromarray(channel)))
            return torch.from_numpy(out)
        right, below = side - width, side - height
        if right < 0 or below < 0:
            raise DataError(
                f"{file}: images of {width} x {height} pixels do not fit into `size: {side}`; "
                "set `fit: resize`, or a larger `size`"
            )
        around = (right // 2, right - right // 2, below // 2, below - below // 2)
        return F.pad(torch.from_numpy(np.ascontiguousarray(pixels)), around)


def _compare_labels(split: Split, num_classes: int) -> None:
    """Refuse a split whose labels are not those of its images or of the study."""
    if len(split.images) != len(split.labels):
        raise DataError(
            f"{split.file}: {len(split.images)} images have {len(split.labels)} labels; the files "
            "are not of one data set"
        )
    found = np.unique(split.labels).tolist()
    if found != list(range(num_classes)):
        raise DataError(
            f"{split.file}: {len(found)} classes with labels from {min(found, default='-')} to "
            f"{max(found, default='-')}, but `num_classes: {num_classes}`, which are the labels 0 "
            f"to {num_classes - 1}"
        )


def _first_of_every_class(labels: Bytes, count: int | None) -> NDArray[np.int64]:
    """Return `count` positions, ascending: those that come first in their class."""
    if count is None:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)  # position among the images of its class
    sizes = np.bincount(labels)
    rank[order] = np.concatenate([np.arange(size) for size in sizes])
    return np.sort(np.lexsort((labels, rank))[:count])
