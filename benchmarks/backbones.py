"""Training steps per second of the backbones against a plain re-statement, in one run.

The plain networks are the published blocks written in the obvious way: one fused query-key-value
projection that is permuted as a whole, scores and softmax as matrices, each modulation and gate
as its own product, norms by their formula, rotary pairs as an even-odd stack. Both sides take the
same step: draw noise and time, forward, loss, backward, AdamW, exponential average of the weights.

    python benchmarks/backbones.py --sizes tiny B --seconds 10
    python benchmarks/backbones.py --sizes B XL --device cuda --batch 64 --autocast --compile
    python benchmarks/backbones.py --gpu

The last is SiT-B and SiT-XL in bfloat16, compiled, with the share of the chip's peak that the
counted operations of a step take; without a GPU it says so and ends.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusability.diffusion.flow import flow_matching_loss, sample_time
from diffusability.diffusion.network import timestep_sinusoid
from diffusability.diffusion.transformer import LatentTransformer, LightningDiT, SiT
from diffusability.study.entries.backbone import BACKBONES, PUBLISHED_SIZES, SiTBackbone
from diffusability.study.entries.operations import backbone

SIZES = {
    name: dict(zip(("width", "depth", "heads"), numbers, strict=True))
    for name, numbers in PUBLISHED_SIZES.items()
}
# name: (latent channels, grid, classes, width-depth-heads, default batch on a CPU)
CASES = {
    "tiny": (4, (8, 8), 10, {"width": 96, "depth": 4, "heads": 3}, 64),
    "narrow": (4, (8, 8), 10, {"width": 64, "depth": 3, "heads": 2}, 64),
    "wide": (8, (8, 8), 10, {"width": 128, "depth": 4, "heads": 4}, 64),
    "B": (32, (16, 16), 1000, SIZES["B"], 2),
    "XL": (32, (16, 16), 1000, SIZES["XL"], 1),
}
# dense bfloat16 of one chip in operations per second, by a part of its name
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


class PlainNorm(nn.Module):
    """LayerNorm or RMSNorm by its formula."""

    def __init__(self, dim: int, centred: bool, affine: bool, eps: float = 1e-6) -> None:
        super().__init__()
        self.centred, self.eps = centred, eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine and centred else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., dim)."""
        if self.centred:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return wide.type_as(x) * self.weight


class PlainBlock(nn.Module):
    """One adaLN-zero block, SiT (rotary None) or LightningDiT."""

    def __init__(self, dim: int, heads: int, rotary: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        sit = rotary is None
        self.heads, self.rotary = heads, rotary
        self.norm1, self.norm2 = (PlainNorm(dim, sit, not sit) for _ in range(2))
        self.q_norm, self.k_norm = (PlainNorm(dim // heads, sit, True) for _ in range(2))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        hidden = 4 * dim if sit else int(2 / 3 * 4 * dim)
        self.up = nn.Linear(dim, hidden if sit else 2 * hidden)
        self.down = nn.Linear(hidden, dim)
        self.mod = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def attention(self, x: Tensor) -> Tensor:
        """Mix tokens x (B, N, D)."""
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, heads, N, head_dim)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None:
            q, k = self.turn(q), self.turn(k)
        scores = (q * (d // self.heads) ** -0.5) @ k.transpose(-2, -1)
        out = scores.softmax(dim=-1).type_as(v) @ v
        return self.proj(out.transpose(1, 2).reshape(b, n, d))

    def turn(self, x: Tensor) -> Tensor:
        """Turn even-odd pairs of x (B, heads, N, head_dim)."""
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        other = torch.stack((-odd, even), dim=-1).flatten(-2)
        return x * self.rotary[0] + other * self.rotary[1]

    def feed_forward(self, x: Tensor) -> Tensor:
        """Map tokens x (B, N, D) one by one."""
        if self.rotary is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Return x (B, N, D) after the block under condition c (B, D)."""
        s1, m1, g1, s2, m2, g2 = (p.unsqueeze(1) for p in self.mod(c).chunk(6, dim=1))
        x = x + g1 * self.attention(self.norm1(x) * (1 + m1) + s1)
        return x + g2 * self.feed_forward(self.norm2(x) * (1 + m2) + s2)


class PlainNetwork(nn.Module):
    """The published network in the obvious way, patch 1."""

    def __init__(self, channels, grid, classes, width, depth, heads, rotary: bool) -> None:
        super().__init__()
        n = grid[0] * grid[1]
        self.embed = nn.Conv2d(channels, width, 1)
        self.pos = nn.Parameter(torch.randn(1, n, width) * 0.02, requires_grad=False)
        self.t_mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.y_table = nn.Embedding(classes + 1, width)
        angle = torch.rand(n, width // heads) * math.pi
        self.cos = nn.Parameter(angle.cos(), requires_grad=False)
        self.sin = nn.Parameter(angle.sin(), requires_grad=False)
        table = (self.cos, self.sin) if rotary else None
        self.blocks = nn.ModuleList(PlainBlock(width, heads, table) for _ in range(depth))
        self.norm = PlainNorm(width, not rotary, rotary)
        self.mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity (B, C, H, W)."""
        c = self.t_mlp(timestep_sinusoid(t, 256)) + self.y_table(y)
        h = self.embed(x).flatten(2).transpose(1, 2) + self.pos
        for block in self.blocks:
            h = block(h, c)
        shift, scale = (p.unsqueeze(1) for p in self.mod(c).chunk(2, dim=1))
        return self.out(self.norm(h) * (1 + scale) + shift).transpose(1, 2).reshape(x.shape)


def library_network(network: type[LatentTransformer], case: str) -> LatentTransformer:
    """Return a backbone of the library with its first weights."""
    channels, grid, classes, size, _ = CASES[case]
    arch = "sit" if network is SiT else "lightningdit"
    spec = BACKBONES[arch].model_validate({"arch": arch, **size, "train": {"steps": 1}})
    model = network(spec, (channels, *grid), classes)
    return model.initialise(torch.Generator().manual_seed(0))


def wake(model: nn.Module) -> nn.Module:
    """Make every trainable weight non-zero, as after some training, so that no work is trivial."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in filter(lambda p: p.requires_grad, model.parameters()):
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator).to(weight))
    return model


def training_step(model: nn.Module, case: str, cosine: float, options) -> Callable[[], None]:
    """Return a function that takes one training step of the model."""
    channels, grid, classes, _, batch = CASES[case]
    batch, device = options.batch or batch, options.device
    model = wake(model).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    weights, averages = list(model.parameters()), list(average.parameters())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    network = torch.compile(model) if options.compile else model
    generator = torch.Generator(device).manual_seed(0)
    data = torch.randn(batch, channels, *grid, generator=generator, device=device)
    labels = torch.arange(batch, device=device) % classes

    def step() -> None:
        noise = torch.randn(data.shape, generator=generator, device=device)
        t = sample_time(batch, "uniform", generator)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=options.autocast):
            loss = flow_matching_loss(network, data, labels, noise, t, cosine)["total"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1e-3)
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def interleaved(steps: list[Callable[[], None]], seconds: float) -> list[list[float]]:
    """Time the steps in turn, so that other load on the machine touches all of them alike."""
    for step in steps * 3:
        step()
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds * len(steps)
    while time.perf_counter() < end or len(times[0]) < 3:
        for own, step in zip(times, steps, strict=True):
            start = time.perf_counter()
            step()
            own.append(time.perf_counter() - start)
    return times


def measure_gpu(options: argparse.Namespace) -> None:
    """Print steps/s of SiT-B and SiT-XL in bfloat16, compiled, and their share of the peak."""
    if not torch.cuda.is_available():
        print("no CUDA device here: steps/s and share of peak were not measured")
        return
    options.device, options.autocast, options.compile = "cuda", True, True
    options.batch = options.batch or 64
    torch.set_float32_matmul_precision("high")
    chip = torch.cuda.get_device_name()
    peak = next((peak for part, peak in PEAKS.items() if part in chip), None)
    print(f"torch {torch.__version__}, {chip}, bfloat16, compiled, batch {options.batch}")
    for case in ("B", "XL"):
        channels, grid, classes, size, _ = CASES[case]
        step = training_step(library_network(SiT, case), case, 0.0, options)
        (times,) = interleaved([step], options.seconds)
        rate = 1 / statistics.median(times)
        spec = SiTBackbone.model_validate({"arch": "sit", **size, "train": {"steps": 1}})
        # forward, and backward to activations and to weights; a multiply-accumulate is two
        done = rate * options.batch * 2 * 3 * backbone(spec, channels, grid[0], classes).macs
        share = f"{done / peak:.0%} of its peak" if peak else "peak of this chip is not known"
        print(f"SiT-{case}: {rate:.2f} steps/s, {done / 1e12:.0f} TFLOP/s, {share}")


def main() -> None:
    """Print one row a network and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=CASES, default=["narrow", "tiny", "B"])
    parser.add_argument("--seconds", type=float, default=8, help="for each network and size")
    parser.add_argument("--batch", type=int, help="images per step; default by size, for a CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile both sides")
    parser.add_argument(
        "--gpu", action="store_true", help="only SiT-B and SiT-XL in bfloat16, compiled, on a GPU"
    )
    options = parser.parse_args()
    if options.gpu:
        measure_gpu(options)
        return
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s)")
    print(f"{'network':14}{'size':8}{'batch':>6}{'steps/s':>10}{'plain':>10}{'ratio':>8}")
    for case in options.sizes:
        channels, grid, classes, size, batch = CASES[case]
        for network, cosine in ((SiT, 0.0), (LightningDiT, 1.0)):
            ours = library_network(network, case)
            plain = PlainNetwork(channels, grid, classes, **size, rotary=network is LightningDiT)
            steps = [training_step(model, case, cosine, options) for model in (ours, plain)]
            times = interleaved(steps, options.seconds)
            rate, base = (1 / statistics.median(own) for own in times)
            name, count = network.__name__, options.batch or batch
            print(f"{name:14}{case:8}{count:6}{rate:10.2f}{base:10.2f}{rate / base:8.2f}")


if __name__ == "__main__":
    main()
