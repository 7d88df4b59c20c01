"""A small folder of generated images, in ImageNet's layout, with masks of some of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from diffusability.study.entries.dataset import FolderDataset

CLASSES = ("n01", "n02", "n03")
SIZE = 16


def write_image(path: Path, seed: int, size: tuple[int, int] = (24, 20)) -> None:
    """Write an image of blocks of random colours, (width, height)."""
    width, height = size
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    pixels = blocks.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_images(
    root: Path, per_class: int = 4, splits: tuple[str, ...] = ("train", "val")
) -> None:
    """Write `per_class` images per class and split; a split of "" leaves its folder out."""
    for s, split in enumerate(splits):
        for c, name in enumerate(CLASSES):
            for k in range(per_class):
                file = root / split / name / f"{split or 'all'}_{name}_{k}.png"
                write_image(file, seed=1000 * s + 100 * c + k)


def write_mask(path: Path, ids: np.ndarray) -> None:
    """Write (H, W) class numbers as ImageNet-S does: R + 256 G."""
    colours = np.zeros((*ids.shape, 3), dtype=np.uint8)
    colours[..., 0], colours[..., 1] = ids % 256, ids // 256
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours).save(path)


def other_pixels(png: bytes) -> bytes:
    """Return an intact PNG file of as many bytes as another, all grey."""
    out = io.BytesIO()
    Image.new("RGB", Image.open(io.BytesIO(png)).size, (128, 128, 128)).save(out, "png")
    return out.getvalue().ljust(len(png), b"\0")  # what follows the image does not count


def entry(root: Path, **options: object) -> FolderDataset:
    """Return the dataset entry of a folder."""
    values = {"kind": "folder", "path": str(root), "size": SIZE, "num_classes": len(CLASSES)}
    return FolderDataset.model_validate(values | options)
