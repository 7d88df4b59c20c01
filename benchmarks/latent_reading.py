"""Speed of reading shuffled latents from disk: mapped shards, ahead of the step, against memory.

    python -m benchmarks.latent_reading --images 20480 --batch 256 --step 0.1

Each side fetches the same batches of bfloat16 moments and turns them into float32 mean and standard
deviation: `mapped` waits for each batch, `ahead` lets it be read during the step before, `memory`
holds the set as the in-memory path does. The shards are in the page cache when the clock starts.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusability.latents.mapped import MappedLatents, MappedTensor
from diffusability.latents.posteriors import Posteriors

SHAPE = (32, 16, 16)
PER_SHARD = 1024
CPU = torch.device("cpu")


def mapped_latents(folder: Path, images: int) -> MappedLatents:
    """Write random latents as shards and open them."""
    parts = []
    for start in range(0, images, PER_SHARD):
        shape = (min(PER_SHARD, images - start), *SHAPE)
        moments = {name: torch.randn(shape).bfloat16() for name in ("mean", "logvar")}
        save_file(moments, folder / f"{start}.safetensors")
        parts.append(load_file(folder / f"{start}.safetensors"))
    mean, logvar = (
        MappedTensor([part[name] for part in parts], torch.float32) for name in ("mean", "logvar")
    )
    return MappedLatents(mean, logvar, torch.zeros(images, dtype=torch.int64), mean)


def waits(posteriors: Posteriors, batches: list[Tensor], ahead: bool, step: float) -> float:
    """Return the median seconds that a step waits for its batch."""
    times = []
    for batch, following in itertools.pairwise(batches):
        start = time.perf_counter()
        posteriors.fetch(batch, following if ahead else None)
        times.append(time.perf_counter() - start)
        if ahead:
            time.sleep(step)  # the GPU's time, in which the processor is free
    return statistics.median(times[1:])


def main() -> None:
    """Print the waits of the three ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_480)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a training step")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        latents = mapped_latents(Path(folder), options.images)
        chosen = torch.arange(options.images)
        order = [torch.randperm(options.images)[: options.batch] for _ in range(options.steps)]
        on_disk = Posteriors(latents, chosen, CPU, held_bytes=0)
        held = Posteriors(latents, chosen, CPU, held_bytes=2**62)
        rows = {
            "mapped": waits(on_disk, order, ahead=False, step=options.step),
            "ahead": waits(on_disk, order, ahead=True, step=options.step),
            "memory": waits(held, order, ahead=False, step=options.step),
        }
    for name, seconds in rows.items():
        print(f"{name:8}{1e3 * seconds:8.1f} ms a batch of {options.batch}")


if __name__ == "__main__":
    main()
