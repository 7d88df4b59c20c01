"""Seconds and peak memory of the latent metrics, beside slow loop implementations.

    python benchmarks/latent_metrics.py --size small
    python benchmarks/latent_metrics.py --size full --threads 2

Latents are synthetic: smooth class means plus correlated noise, written to a temporary file and
memory-mapped. Every perspective runs in a process of its own, whose peak resident memory counts
the mapped pages that it has read. The loops run on a few images or classes and their time is
extrapolated: in proportion to images, or to classes for velocity, and to the square of the number
of images for neighbours. Ratios compare processor seconds, which a busy machine does not change.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import latent_loops as loops
from diffusability.metrics.semantics import measure_semantics
from diffusability.metrics.smoothness import measure_smoothness
from diffusability.metrics.spatial import grid_scales, measure_spatial
from diffusability.metrics.velocity import measure_velocity


@dataclass(frozen=True)
class Size:
    """Shape of the synthetic set."""

    images: int
    channels: int
    side: int
    classes: int
    masks: int


SIZES = {
    "small": Size(2000, 8, 8, 40, 1000),
    "medium": Size(10_000, 32, 16, 200, 4000),
    "full": Size(50_000, 32, 16, 1000, 12_000),
}
LOOP_IMAGES = 4
LOOP_NEIGHBOURS = 200


def write_latents(path: Path, size: Size, seed: int) -> None:
    """Write (N, C, S, S) float32 latents, image i of class i mod K, block by block."""
    rng = np.random.default_rng(seed)
    shape = (size.images, size.channels, size.side, size.side)
    file = np.memmap(path, np.float32, "w+", shape=shape)
    means = rng.standard_normal((size.classes, size.channels, 1, 1), np.float32)
    index = np.arange(size.side)
    smooth = np.linalg.cholesky(0.8 ** np.abs(index[:, None] - index)).astype(np.float32)
    for start in range(0, size.images, 1000):
        classes = np.arange(start, min(start + 1000, size.images)) % size.classes
        noise = rng.standard_normal((classes.size, *shape[1:]), np.float32)
        file[start : start + classes.size] = means[classes] + smooth @ noise @ smooth.T
    file.flush()


def load(path: Path, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Map the latents; make labels and centred discs of varying size as masks."""
    shape = (size.images, size.channels, size.side, size.side)
    latents = torch.from_numpy(np.memmap(path, np.float32, "r+", shape=shape))
    labels = torch.arange(size.images) % size.classes
    axis = torch.arange(size.side) - (size.side - 1) / 2
    radius = size.side * (0.3 + 0.2 * torch.rand(size.masks, generator=_generator()))
    masks = axis[:, None].square() + axis.square() < radius[:, None, None].square()
    return latents, labels, masks.float()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def run_velocity(latents: Tensor, labels: Tensor, masks: Tensor) -> None:
    """Measure velocity on the whole set."""
    measure_velocity(latents, labels, generator=_generator())


def run_semantics(latents: Tensor, labels: Tensor, masks: Tensor) -> None:
    """Measure semantics on the images with masks, the probe learning from as many."""
    count = masks.shape[0]
    training = latents[:count].double().mean(dim=(2, 3)), labels[:count]
    measure_semantics(
        latents[:count], labels[:count], masks, generator=_generator(), training=training
    )


def run_spatial(latents: Tensor, labels: Tensor, masks: Tensor) -> None:
    """Measure LDS, CDS and RMSC on the whole set."""
    measure_spatial(latents, None)


def run_spatial_masked(latents: Tensor, labels: Tensor, masks: Tensor) -> None:
    """Measure spatial structure with SRSS on the images with masks."""
    measure_spatial(latents[: masks.shape[0]], masks)


def run_smoothness(latents: Tensor, labels: Tensor, masks: Tensor) -> None:
    """Measure smoothness on the whole set."""
    measure_smoothness(latents)


def loop_velocity(latents: Tensor, labels: Tensor, masks: Tensor) -> float:
    """Fit one class; the extrapolation adds the halves, two per halving."""
    samples = latents[labels == 0].double().numpy()
    start = time.process_time()
    loops.viv(samples, 1e-6)
    classes = int(labels.max() + 1)
    halvings = min(128, classes) if classes > 128 else classes * -(-128 // classes)
    return (time.process_time() - start) * (classes + halvings)


def loop_semantics(latents: Tensor, labels: Tensor, masks: Tensor) -> float:
    """Search neighbours of a few hundred means, once per variant of LNC; no probe."""
    features = latents[:LOOP_NEIGHBOURS].double().mean(dim=(2, 3)).numpy()
    start = time.process_time()
    loops.lnc(features, labels[:LOOP_NEIGHBOURS].numpy(), 5, "cosine")
    return (time.process_time() - start) * 4 * (masks.shape[0] / LOOP_NEIGHBOURS) ** 2


def loop_spatial(latents: Tensor, labels: Tensor, masks: Tensor) -> float:
    """LDS, CDS and RMSC of a few images, normalised and raw."""
    scales = grid_scales(*latents.shape[2:])
    start = time.process_time()
    for image in latents[:LOOP_IMAGES].double().numpy():
        loops.lds(image, scales.far)
        loops.cds(image, scales.decay)
        loops.rmsc(image)
    return (time.process_time() - start) * 2 * latents.shape[0] / LOOP_IMAGES


def loop_spatial_masked(latents: Tensor, labels: Tensor, masks: Tensor) -> float:
    """SRSS too, on the images with masks."""
    scales = grid_scales(*latents.shape[2:])
    start = time.process_time()
    loops.srss(latents[0].double().numpy(), masks[0].numpy() > 0, scales.far)
    each = 2 * (time.process_time() - start)
    rest = loop_spatial(latents, labels, masks) / latents.shape[0]
    return (each + rest) * masks.shape[0]


def loop_smoothness(latents: Tensor, labels: Tensor, masks: Tensor) -> float:
    """SEC at two ratios and the local correlation of a few images."""
    images = latents[:LOOP_IMAGES].double().numpy()
    start = time.process_time()
    for ratio in (0.25, 0.5):
        loops.sec(images, ratio)
    for image in images:
        loops.local_correlation(image)
    return (time.process_time() - start) * latents.shape[0] / LOOP_IMAGES


Runner = Callable[[Tensor, Tensor, Tensor], None]
Loop = Callable[[Tensor, Tensor, Tensor], float]
PERSPECTIVES: dict[str, tuple[Runner, Loop]] = {
    "velocity": (run_velocity, loop_velocity),
    "semantics": (run_semantics, loop_semantics),
    "spatial": (run_spatial, loop_spatial),
    "spatial_masked": (run_spatial_masked, loop_spatial_masked),
    "smoothness": (run_smoothness, loop_smoothness),
}


def measure(name: str, path: Path, size: Size, threads: int) -> tuple[float, float, float]:
    """Return wall seconds, processor seconds and peak resident GiB of one perspective."""
    torch.set_num_threads(threads)
    data = load(path, size)
    start, used = time.perf_counter(), time.process_time()
    PERSPECTIVES[name][0](*data)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return seconds, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print one line a perspective and the total."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=PERSPECTIVES, nargs="+", default=list(PERSPECTIVES))
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    torch.set_num_threads(1)
    print(f"{size}, {arguments.threads} threads")
    heads = ("wall s", "cpu s", "peak GiB", "loop cpu s", "ratio")
    print(f"{'perspective':16s}" + "".join(f"{head:>11s}" for head in heads))
    totals = np.zeros(2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latents.f32"
        write_latents(path, size, seed=0)
        for name in arguments.only:
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                wall, used, peak = pool.apply(measure, (name, path, size, arguments.threads))
            loop = PERSPECTIVES[name][1](*load(path, size))
            totals += wall, used
            cells = f"{wall:11.1f}{used:11.1f}{peak:11.2f}{loop:11.0f}{loop / used:11.0f}"
            print(f"{name:16s}{cells}", flush=True)
    print(f"{'total':16s}{totals[0]:11.1f}{totals[1]:11.1f}")


if __name__ == "__main__":
    main()
