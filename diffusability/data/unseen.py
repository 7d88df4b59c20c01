"""Images that are not here: their number, with labels and masks of their latents on disk."""

import torch
from torch import Tensor

from diffusability.data.array_files import as_labels, read_array
from diffusability.data.images import ImageSet
from diffusability.data.load import OwnFiles
from diffusability.errors import DataError
from diffusability.study.entries.dataset import UnseenDataset


class UnseenImages(OwnFiles[UnseenDataset]):
    """Labels and masks in the order of the latents; images have no pixels."""

    keys = ("labels", "masks")
    what = "labels and masks"

    def load(self) -> ImageSet:
        """Return images (N, 0, S, S), labels and masks.

        Raises:
            DataError: labels or masks are not of so many images, or not of the declared classes.
        """
        spec = self.spec
        labels = read_labels(spec)
        masks = None if spec.masks is None else read_masks(spec)
        return ImageSet(
            images=torch.empty((spec.images, 0, spec.size, spec.size), dtype=torch.uint8),
            labels=labels,
            masks=torch.zeros((spec.images, 1, 1), dtype=torch.bool) if masks is None else masks,
            validation=torch.zeros(spec.images, dtype=torch.bool),
            num_classes=spec.num_classes,
            masked=masks is not None,
        )


def read_labels(spec: UnseenDataset) -> Tensor:
    """Return the (N,) int64 labels; all 0 where the entry names none.

    Raises:
        DataError: they are no integers, not one per image, or not of the declared classes.
    """
    if spec.labels is None:
        return torch.zeros(spec.images, dtype=torch.int64)
    found = read_array(spec.labels, ("labels", "label", "y"))
    labels = as_labels(found, spec.images, spec.labels)
    low, high = int(labels.min()), int(labels.max())
    if high >= spec.num_classes:
        raise DataError(
            f"{spec.labels}: labels from {low} to {high}, but `num_classes: "
            f"{spec.num_classes}`, which are the labels 0 to {spec.num_classes - 1}"
        )
    return labels


def read_masks(spec: UnseenDataset) -> Tensor:
    """Return the (N, H, W) foreground of the images, bool or a share in [0, 1].

    Raises:
        DataError: they are not one per image, or not in [0, 1].
    """
    assert spec.masks is not None
    masks = read_array(spec.masks, ("masks", "mask", "foreground"))
    if masks.ndim != 3 or len(masks) != spec.images:
        raise DataError(
            f"{spec.masks}: masks of shape {tuple(masks.shape)} for {spec.images} latents; they "
            "must be (images, height, width)"
        )
    if masks.dtype != torch.bool and not bool(((masks >= 0) & (masks <= 1)).all()):
        raise DataError(f"{spec.masks}: masks are true or false, or shares of foreground in [0, 1]")
    return masks
