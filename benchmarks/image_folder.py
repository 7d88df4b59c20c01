"""Time the decoding of image files against a plain Pillow loop, and the building of an index.

Usage: python -m benchmarks.image_folder [--images N] [--rounds N] [--threads N]. Files are JPEGs
of ImageNet's usual 500 x 375 pixels, cut from the photographs that ship inside scikit-learn. Both
sides take turns on the same files, which lie in the page cache, and only processor time counts: no
disk is timed, and what else runs on the machine matters little.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from diffusability.data.folder import open_folder
from diffusability.data.folder_index import build_index
from diffusability.study.entries.dataset import FolderDataset

WIDTH, HEIGHT = 500, 375
QUALITY = 90


def main() -> None:
    """Print images a core-second of both sides and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--threads", type=int, default=1, help="that decode, on our side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), options)


def compare(root: Path, options: argparse.Namespace) -> None:
    """Write the files, and let both sides take turns on them."""
    files = write_photographs(root, options.images)
    values = {"kind": "folder", "path": str(root), "size": options.size, "num_classes": 1}
    spec = FolderDataset.model_validate(values)
    begun = time.process_time()
    index = build_index(spec, options.threads).index
    indexed = len(files) / (time.process_time() - begun)
    data = open_folder(root, index, spec, options.threads)
    everything = torch.arange(len(files))

    def ours() -> torch.Tensor:
        return torch.cat([data.images[part] for part in everything.split(64)])

    def plain() -> torch.Tensor:
        return torch.stack([plain_crop(file, options.size) for file in files])

    assert torch.equal(ours(), plain())
    rates = [(rate(ours, len(files)), rate(plain, len(files))) for _ in range(options.rounds)]
    print(f"{len(files)} JPEGs of {WIDTH} x {HEIGHT}, crops of {options.size}, equal to the bit")
    rows = {
        "plain Pillow loop, 1 thread": median(b for _, b in rates),
        f"FolderImages, {options.threads} thread(s)": median(a for a, _ in rates),
        f"index, {options.threads} thread(s)": indexed,
    }
    for what, images_a_second in rows.items():
        print(f"{what:<30}{images_a_second:>7.0f} images/s a core")
    print(f"ratio of the first two{median(a / b for a, b in rates):>15.2f}")


def plain_crop(file: Path, size: int) -> torch.Tensor:
    """Return a file's (3, S, S) uint8 centre crop as ADM's loader makes it, step by step."""
    image = Image.open(file).convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    wanted = round(image.width * scale), round(image.height * scale)
    pixels = np.array(image.resize(wanted, Image.Resampling.BICUBIC))  # (H, W, 3)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    square = pixels[top : top + size, left : left + size]
    return torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))


def write_photographs(root: Path, count: int) -> list[Path]:
    """Write cuts of the photographs at random places; return the files in order."""
    photographs = load_sample_images().images  # (427, 640, 3) uint8 each
    rng = np.random.default_rng(0)
    files = [root / f"{k:05d}.jpg" for k in range(count)]
    for k, file in enumerate(files):
        photograph = photographs[k % len(photographs)]
        top = rng.integers(photograph.shape[0] - HEIGHT + 1)
        left = rng.integers(photograph.shape[1] - WIDTH + 1)
        cut = photograph[top : top + HEIGHT, left : left + WIDTH]
        Image.fromarray(np.ascontiguousarray(cut)).save(file, quality=QUALITY)
    return files


def rate(work: Callable[[], torch.Tensor], images: int) -> float:
    """Return images per second of one core, in one call."""
    begun = time.process_time()
    work()
    return images / (time.process_time() - begun)


if __name__ == "__main__":
    main()
