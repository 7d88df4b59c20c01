"""Time reading images in random order from archives against the same files in a folder.

Usage: python -m benchmarks.archives [--images N] [--size N] [--rounds N]. Files are JPEGs of
ImageNet's usual 500 x 375 pixels. All sides take turns on the same images, which lie in the page
cache, with one thread, and only processor time counts.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.image_folder import rate, write_photographs
from diffusability.data import parquet
from diffusability.data.images import ImageSet
from diffusability.data.load import data_source
from tests.unit.archive_files import Labelled, write_parquet, write_tar, write_zip

WRITERS = {"zip": write_zip, "tar": write_tar, "parquet": partial(write_parquet, group=100)}


def main() -> None:
    """Print images per core-second of every kind, and the ratio to the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kept", type=int, default=parquet.KEPT, help="bytes of row groups")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parquet.KEPT = options.kept
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), options)


def compare(root: Path, options: argparse.Namespace) -> None:
    """Write the images as every kind, and let all of them take turns."""
    (root / "images").mkdir()
    files = write_photographs(root / "images", options.images)
    images = [Labelled(file.name, file.read_bytes(), 0) for file in files]
    sets = {"folder": _prepared("folder", root / "images", root, options.size)}
    for kind, write in WRITERS.items():
        write(root / f"images.{kind}", images)
        sets[kind] = _prepared(kind, root / f"images.{kind}", root, options.size)
    order = torch.randperm(options.images, generator=torch.Generator().manual_seed(0))

    def shuffled(data: ImageSet) -> torch.Tensor:
        return torch.cat([data.images[part] for part in order.split(64)])

    first, *others = (shuffled(data) for data in sets.values())
    assert all(torch.equal(first, other) for other in others)
    rates: dict[str, list[float]] = {kind: [] for kind in sets}
    for _ in range(options.rounds):
        for kind, data in sets.items():
            rates[kind].append(rate(lambda data=data: shuffled(data), options.images))
    for kind, found in rates.items():
        ratio = median(a / b for a, b in zip(found, rates["folder"], strict=True))
        print(f"{kind:<10}{median(found):>7.0f} images/s per core{ratio:>8.2f}")


def _prepared(kind: str, path: Path, root: Path, size: int) -> ImageSet:
    folder = root / f"made-{kind}"
    folder.mkdir()
    source = data_source({"kind": kind, "path": str(path), "size": size, "num_classes": 1})
    data, _ = source.prepare(folder, folder)
    return data


if __name__ == "__main__":
    main()
