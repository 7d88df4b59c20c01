"""Cost of one Fisher-information probe at equal standard error: JVP against other ways, in one run.

All ways ask a flow-matching transformer for its denoiser D and for G r or its transpose at the same
noisy points with the same random signs r, hence for the same unbiased estimates of FI, FIR and MMSE
rate. What differs is the price, the scatter over data, and for differences the rounding. Time at
equal standard error is time x (standard error of FIR / that of the JVP) squared.

    python -m benchmarks.fisher --sizes narrow wide --seconds 10
    python -m benchmarks.fisher --sizes B --device cuda --points 64
"""

import argparse
import math
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.backbones import CASES, interleaved, library_network, wake
from diffusability.diffusion.transformer import SiT
from diffusability.fisher.denoiser import from_velocity
from diffusability.nn.attention import forward_mode_attention

V = 0.25  # noise variance of the comparison, in units of the latent's variance
STEP = 1e-3  # of the differences: larger bends, smaller drowns in float32 rounding

Field = Callable[[Tensor], Tensor]  # D(y) at fixed noise and labels, (B, ...) to (B, ...)
Way = Callable[[Field, Tensor, Tensor], tuple[Tensor, Tensor]]  # -> D(y) and G r or G^T r


def forward_mode(field: Field, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return D and G r by one forward pass with tangents, what the estimator does."""
    with forward_mode_attention(), torch.no_grad():
        mean, gain = torch.func.jvp(field, (y,), (r,))
    return mean, gain


def double_backward(field: Field, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return D and G r as the gradient of a gradient."""
    with forward_mode_attention():
        mean, gain = torch.autograd.functional.jvp(field, y, r)
    return mean, gain


def reverse_mode(field: Field, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return D and G^T r by one backward pass."""
    with forward_mode_attention():
        mean, pull = torch.func.vjp(field, y)
        return mean.detach(), pull(r)[0].detach()


def differences(field: Field, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return D and G r by a central difference, three passes with the fastest attention."""
    with torch.no_grad():
        ahead, behind = field(y + STEP * r), field(y - STEP * r)
        return field(y), (ahead - behind) / (2 * STEP)


WAYS: dict[str, Way] = {
    "JVP": forward_mode,
    "double backward": double_backward,
    "VJP": reverse_mode,
    "differences": differences,
}


def problem(case: str, points: int, device: str) -> tuple[Field, Tensor, Tensor]:
    """Return a denoiser at the noise of the comparison, noisy points and random signs."""
    channels, grid, classes, _, _ = CASES[case]
    network = wake(library_network(SiT, case)).to(device).eval().requires_grad_(False)
    labels = torch.arange(points, device=device) % classes
    denoiser = from_velocity(network)
    generator = torch.Generator().manual_seed(0)
    y = math.sqrt(1 + V) * torch.randn(points, channels, *grid, generator=generator)
    r = 2.0 * torch.randint(0, 2, y.shape, generator=generator) - 1
    return lambda point: denoiser(point, V, labels), y.to(device), r.to(device)


def rates(gain: Tensor, r: Tensor) -> Tensor:
    """Return the FIR (B,) of each point: (n - 2 r G r + |G r|^2) / v^2."""
    wide, signs = gain.double().flatten(1), r.double().flatten(1)
    trace, square = (wide * signs).sum(1), wide.square().sum(1)
    return (signs.shape[1] - 2 * trace + square) / V**2


def main() -> None:
    """Print one row a way and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=CASES, default=["narrow", "wide"])
    parser.add_argument("--seconds", type=float, default=5, help="for each way and size")
    parser.add_argument("--points", type=int, default=64, help="noisy points at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), v = {V}")
    print(f"{'size':8}{'way':18}{'ms/probe':>10}{'equal error':>13}{'FIR':>16}{'of G r, rel.':>14}")
    for case in options.sizes:
        field, y, r = problem(case, options.points, options.device)
        calls = [partial(way, field, y, r) for way in WAYS.values()]
        times = [statistics.median(own) for own in interleaved(calls, options.seconds)]
        fir = [rates(call()[1], r) for call in calls]
        errors = [float(own.std()) / math.sqrt(len(own)) for own in fir]
        exact = calls[0]()[1]
        for name, time, own, error, call in zip(WAYS, times, fir, errors, calls, strict=True):
            ratio = time / times[0] * (error / errors[0]) ** 2
            off = float((call()[1] - exact).norm() / exact.norm())
            value = f"{float(own.mean()):.1f} ± {error:.1f}"
            distance = "transpose" if name == "VJP" else f"{off:.0e}"
            print(f"{case:8}{name:18}{1e3 * time:10.1f}{ratio:13.2f}{value:>16}{distance:>14}")


if __name__ == "__main__":
    main()
