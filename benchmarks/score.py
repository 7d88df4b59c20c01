"""Processor seconds of every metric group of `diffusability score`, after encoding.

    python -m benchmarks.score                       # 5,000 latents of 32 x 16 x 16, 10 classes
    python -m benchmarks.score --classes 1           # without labels
    python -m benchmarks.score --images 300 --channels 384 --side 14 --classes 1  # of a ViT

Latents are class means plus smooth noise. One thread, so that a busy machine changes little.
"""

import argparse
import time

import torch
from torch import Tensor

from diffusability.errors import DiffusabilityError
from diffusability.scoring.latents import measure
from diffusability.scoring.request import DEFAULTS, OF_LATENTS


def made_latents(images: int, channels: int, side: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return latents (N, C, S, S) float32 and labels (N,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    means = torch.randn(classes, channels, 1, 1, generator=generator)
    index = torch.arange(side)
    smooth = torch.linalg.cholesky(0.8 ** (index[:, None] - index).abs().float())
    noise = torch.randn(images, channels, side, side, generator=generator)
    return means[labels] + smooth @ noise @ smooth.T, labels


def made_masks(images: int, side: int) -> Tensor:
    """Return (N, S, S) discs of varying size."""
    axis = torch.arange(side) - (side - 1) / 2
    radius = side * (0.3 + 0.2 * torch.rand(images, generator=torch.Generator().manual_seed(1)))
    return axis[:, None].square() + axis.square() < radius[:, None, None].square()


def main() -> None:
    """Print one line per metric group, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--classes", type=int, default=10, help="1: without labels")
    parser.add_argument("--metrics", nargs="+", default=list(OF_LATENTS))
    of = parser.parse_args()
    torch.set_num_threads(1)
    latents, labels = made_latents(of.images, of.channels, of.side, of.classes)
    masks, total = made_masks(of.images, of.side), 0.0
    for group in of.metrics:
        start = time.process_time()
        try:
            measure(
                group,
                latents,
                labels if of.classes > 1 else None,
                masks,
                **DEFAULTS.get(group, {}),
            )
            note = ""
        except DiffusabilityError as error:
            note = str(error)
        used = time.process_time() - start
        total += used
        print(f"{group:12s}{used:8.1f}  {note}", flush=True)
    print(f"{'sum':12s}{total:8.1f}")


if __name__ == "__main__":
    main()
