"""Time the drawing of the shapes dataset: images a core-second, by image size.

Usage: python -m benchmarks.shapes [--images N]. Only processor time counts.
"""

import argparse
import time

import torch

from diffusability.data.shapes import draw_shapes
from diffusability.study.entries.pixel_dataset import ShapesDataset


def main() -> None:
    """Print one line an image size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8192)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for size in (16, 32, 64):
        spec = ShapesDataset(kind="shapes", size=size)
        draw_shapes(spec, "train", range(1))  # reads the photographs and fills the tables
        started = time.process_time()
        draw_shapes(spec, "train", range(options.images))
        rate = options.images / (time.process_time() - started)
        print(f"shapes {size:>3} px {rate:>10,.0f} images/s per core")


if __name__ == "__main__":
    main()
