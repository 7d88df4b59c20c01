"""Sampling images per second, and scoring them without a folder of PNGs, against plain versions.

The plain sampler steps the plain networks of `benchmarks/backbones.py` in the obvious loop: one
call with the labels and one with the null class, combined. The plain evaluation writes every
decoded image as a PNG, reads the folder again and scores that, as most published evaluations do.
Sides take turns in one process; on a CPU thread the processor's time counts.

    python -m benchmarks.sampling --seconds 5
    python -m benchmarks.sampling --sizes B XL --device cuda --samples 64
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.backbones import CASES, PlainNetwork, library_network, wake
from diffusability.data.images import to_float, to_uint8
from diffusability.diffusion.guidance import guided_velocity
from diffusability.diffusion.sampler import balanced_labels, draw_noise, integrate
from diffusability.diffusion.transformer import LightningDiT, SiT
from diffusability.encoders.convnet import ConvEncoder
from diffusability.metrics.feature_moments import FeatureMoments, moments_of_batches
from diffusability.metrics.frechet import frechet_distance
from diffusability.study.entries.network import ConvNetwork, ImageShape
from diffusability.study.entries.trained_encoder import SupervisedEncoder
from diffusability.tokenizers.conv import ConvAutoencoder

STEPS, BATCH = 10, 64


def in_turn(sides: list[Callable[[], object]], device: str, seconds: float) -> list[float]:
    """Return the median time of each side in seconds; they take turns."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    times: list[list[float]] = [[] for _ in sides]
    end = time.perf_counter() + seconds * len(sides)
    while time.perf_counter() < end or len(times[0]) < 4:
        for own, side in zip(times, sides, strict=True):
            start = clock()
            side()
            if device != "cpu":
                torch.cuda.synchronize()
            own.append(clock() - start)
    return [statistics.median(own[1:]) for own in times]  # the first warms up


def samplers(
    network: type[SiT], case: str, scale: float, options: argparse.Namespace
) -> list[Callable[[], Tensor]]:
    """Return our sampler and the plain one: functions that draw `samples` latents."""
    channels, grid, classes, size, _ = CASES[case]
    count, device = options.samples, options.device
    ours = wake(library_network(network, case)).to(device).eval()
    rotary = network is LightningDiT
    plain = wake(PlainNetwork(channels, grid, classes, **size, rotary=rotary)).to(device).eval()
    labels = balanced_labels(range(count), classes).to(device)
    nulls = torch.full_like(labels, classes)
    shape = (channels, *grid)

    @torch.no_grad()
    def library() -> Tensor:
        noise = draw_noise(0, range(count), shape).to(device)
        return integrate(guided_velocity(ours, labels, classes, scale), noise, STEPS)

    @torch.no_grad()
    def loop() -> Tensor:
        x = torch.randn(count, *shape, device=device)
        for i in range(STEPS):
            t = torch.full((count,), i / STEPS, device=device)
            v = plain(x, t, labels)
            if scale != 1:
                other = plain(x, t, nulls)
                v = other + scale * (v - other)
            x = x + v / STEPS
        return x

    return [library, loop]


def scorers(side: int, count: int, device: str, folder: Path) -> list[Callable[[], float]]:
    """Return the distance of decoded latents taken in memory, and by way of PNGs in a folder."""
    torch.manual_seed(0)
    network_spec = ConvNetwork(
        arch="conv",
        factor=2,
        channels=4,
        width=8,
        multipliers=(1, 1),
        encoder_blocks=1,
        decoder_blocks=1,
        attention=False,
    )
    tokenizer = ConvAutoencoder(network_spec, ImageShape(3, side))
    encoder_spec = {"kind": "supervised", "width": 8, "factor": 4, "train": {"steps": 1}}
    judge = ConvEncoder(SupervisedEncoder.model_validate(encoder_spec), 3, 10)
    for network in (tokenizer, judge):
        network.initialise(torch.Generator().manual_seed(0))
        network.to(device).eval()
    latents = torch.randn(count, 4, side // 2, side // 2)
    reference = FeatureMoments.from_features(torch.randn(1000, 64), extractor="judge")

    def decoded() -> list[Tensor]:
        return [to_uint8(tokenizer.decode(z.to(device))).cpu() for z in latents.split(BATCH)]

    def score(batches: list[Tensor]) -> float:
        features = (judge.features(to_float(b.to(device))).cpu() for b in batches)
        return frechet_distance(reference, moments_of_batches(features, extractor="judge"))

    @torch.no_grad()
    def in_memory() -> float:
        return score(decoded())

    @torch.no_grad()
    def by_png() -> float:
        for i, image in enumerate(torch.cat(decoded())):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:06d}.png")
        files = sorted(folder.glob("*.png"))
        read = [torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1) for f in files]
        return score(list(torch.stack(read).split(BATCH)))

    return [in_memory, by_png]


def main() -> None:
    """Print one row a network, size and guidance scale, and one for each side of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", choices=CASES, default=["narrow", "tiny"])
    parser.add_argument("--sides", nargs="*", type=int, default=[16, 64], help="pixels, scored")
    parser.add_argument("--samples", type=int, default=64, help="latents drawn at once")
    parser.add_argument("--images", type=int, default=256, help="images decoded and scored")
    parser.add_argument("--seconds", type=float, default=4, help="for each side of a ratio")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s)")
    print(f"{STEPS} Euler steps{'scale':>11}{'images/s':>10}{'plain':>10}{'ratio':>8}")
    for case in options.sizes:
        for network in (SiT, LightningDiT):
            for scale in (1.0, 1.5):
                sides = samplers(network, case, scale, options)
                ours, plain = in_turn(sides, options.device, options.seconds)
                rates = options.samples / ours, options.samples / plain
                name = f"{network.__name__} {case}"
                print(f"{name:20}{scale:6}{rates[0]:10.1f}{rates[1]:10.1f}{plain / ours:8.2f}")
    for side in options.sides:
        with tempfile.TemporaryDirectory() as folder:
            sides = scorers(side, options.images, options.device, Path(folder))
            if sides[0]() != sides[1]():
                raise SystemExit("the two ways of scoring disagree; PNG is lossless")
            ours, plain = in_turn(sides, options.device, options.seconds)
        rates = options.images / ours, options.images / plain
        name = f"decode, score {side} px"
        print(f"{name:26}{rates[0]:10.1f}{rates[1]:10.1f}{plain / ours:8.2f}")


if __name__ == "__main__":
    main()
