"""Geometry of an encoder: how it stretches distances, and the power spectra of its latents.

Bi-Lipschitz constants (Table 1) and spectra (Fig. 13) of "Understanding Latent Diffusability via
Fisher Geometry" (arXiv 2604.02751). The extremes of a sample underestimate the range, so quantiles
are reported too. A spectrum depends on the order of a latent's entries, to which diffusion is
blind, so the spectrum of latents in a random order is reported for comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.fisher.spectrum import image_spectrum, spectral_slope, vector_spectrum
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import delete_block_stderr

LEVELS = {"q01": 0.01, "q05": 0.05, "q50": 0.5, "q95": 0.95, "q99": 0.99}
BLOCKS = 20  # of images; the jackknife leaves out one at a time
FREQUENCIES = 3  # fewest frequencies for fitting a slope


@dataclass(frozen=True)
class Spectrum:
    """A power spectrum averaged over latents of mean 0 and variance 1.

    Attributes:
        order: "grid" (radial, of the latent grid) or "line" (along the latent's vector).
        permuted: whether the entries were put in a random order first.
        frequency: (K,) cycles per cell, without zero.
        power: (K,); white noise has 1.
        stderr: (K,) over images.
    """

    order: str
    permuted: bool
    frequency: Tensor
    power: Tensor
    stderr: Tensor


def measure_stretch(
    images: Tensor, latents: Tensor
) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Measure the quotients |E(x) - E(x')| / |x - x'| over all pairs of images.

    Args:
        images: (N, C, H, W) in random order, as blocks of the jackknife are consecutive; pairs of
            equal images are left out.
        latents: (N, d, h, w) posterior means.

    Returns:
        ``geometry.stretch_min`` (a of Table 1), ``_max`` (b), ``_ratio`` (b / a, LOWER is closer
        to a similarity), the quantiles ``_q01`` ... ``_q99``, and ``_q99_q01``, their ratio. The
        quantiles have jackknife standard errors over images, the extremes have none. And the
        ratios that do not apply because their denominator is zero, with the reason.

    Raises:
        MeasurementError: there are fewer than two blocks of images, or all are equal.
    """
    quotients = distance_quotients(images, latents)  # (P,)
    first, second = torch.triu_indices(len(images), len(images), 1)
    block = _blocks(len(images))
    kept = ~quotients.isnan()
    if not bool(kept.any()):
        raise MeasurementError(f"geometry: {len(images)} equal images have no distances")
    whole = _quantiles(quotients[kept])  # (L,)
    left_out = torch.stack(
        [
            _quantiles(quotients[kept & (block[first] != b) & (block[second] != b)])
            for b in range(int(block.max()) + 1)
        ]
    )  # (B, L)
    sizes = block.bincount()

    def row(name: str, value: Tensor, spread: Tensor | None, better: bool | None) -> Measurement:
        stderr = None if spread is None else delete_block_stderr(float(value), spread, sizes)
        options = {"pairs": int(kept.sum()), "blocks": len(sizes)}
        return Measurement(
            f"geometry.stretch_{name}", float(value), stderr, len(images), "1", better, options
        )

    low, high = quotients[kept].min(), quotients[kept].max()
    found = [row("min", low, None, None), row("max", high, None, None)]
    found += [row(name, whole[at], left_out[:, at], None) for at, name in enumerate(LEVELS)]
    not_applicable = []
    names = list(LEVELS)
    bottom, top = names.index("q01"), names.index("q99")
    if float(low) > 0:
        found.append(row("ratio", high / low, None, False))
    else:
        not_applicable.append(("geometry.stretch_ratio", "different images share a latent"))
    if float(left_out[:, bottom].min()) > 0:
        spread = left_out[:, top] / left_out[:, bottom]
        found.append(row("q99_q01", whole[top] / whole[bottom], spread, False))
    else:
        not_applicable.append(
            ("geometry.stretch_q99_q01", "a percentile of the pairs share a latent")
        )
    return found, not_applicable


def distance_quotients(x: Tensor, z: Tensor) -> Tensor:
    """Return |E(x) - E(x')| / |x - x'| of every pair, NaN for pairs of equal data.

    Args:
        x: (N, ...) data; the pairs take 4 N^2 bytes of float64.
        z: (N, ...) their latents.

    Returns:
        (N (N - 1) / 2,) float64, in the order of `torch.triu_indices(N, N, 1)`.

    Raises:
        MeasurementError: the numbers differ.
    """
    if len(x) != len(z):
        raise MeasurementError(f"{len(x)} data and {len(z)} latents do not belong together")
    before = F.pdist(x.flatten(1).to(torch.float64))  # (P,)
    after = F.pdist(z.flatten(1).to(torch.float64))  # (P,)
    return torch.where(before > 0, after / before, torch.nan)


def measure_spectra(
    latents: Tensor, vectors: Tensor, generator: torch.Generator
) -> tuple[list[Measurement], list[tuple[str, str]], list[Spectrum]]:
    """Measure power spectra of latents as grids and as vectors, in order and permuted.

    Args:
        latents: (N, d, h, w) posterior means, in random order of images, as blocks of the
            jackknife are consecutive.
        vectors: (N, d·h·w) the same entries in the order of the latent's vector.
        generator: source of the one random order that all latents are permuted by.

    Returns:
        ``geometry.grid_slope`` and ``geometry.line_slope``, the slopes of log power against log
        frequency (0: white), ``..._falling``, the share of neighbouring frequencies between which
        the power falls (1: monotone decay), and both for permuted entries; what too few
        frequencies rule out, with the reason; and the spectra themselves. Constant latents are left
        out.

    Raises:
        MeasurementError: fewer than two latents vary.
    """
    varied = latents.flatten(1).double().std(1) > 0
    latents, vectors = latents[varied], vectors[varied]
    if len(latents) < 2:
        raise MeasurementError(f"geometry: {len(latents)} latents vary, a spectrum needs two")
    shuffle = torch.randperm(vectors.shape[1], generator=generator)
    mixed = latents.flatten(1)[:, shuffle].view_as(latents)
    kinds: list[tuple[str, bool, Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]] = [
        ("grid", False, latents, image_spectrum),
        ("grid", True, mixed, image_spectrum),
        ("line", False, vectors, vector_spectrum),
        ("line", True, vectors[:, shuffle], vector_spectrum),
    ]
    found: list[Measurement] = []
    not_applicable: list[tuple[str, str]] = []
    spectra: list[Spectrum] = []
    block = _blocks(len(latents))
    sizes = block.bincount().double()
    for order, permuted, values, spectrum in kinds:
        parts = [spectrum(values[block == b]) for b in range(len(sizes))]
        frequency, power = parts[0][0], torch.stack([part[1] for part in parts])  # (B, K)
        name = f"geometry.{order}" + ("_permuted" if permuted else "")
        if len(frequency) < FREQUENCIES:
            shape = "x".join(map(str, values.shape[1:]))
            reason = f"a latent of {shape} has {len(frequency)} non-zero frequencies"
            not_applicable += [(f"{name}_slope", reason), (f"{name}_falling", reason)]
            continue
        total = (sizes[:, None] * power).sum(0)  # (K,)
        mean = total / sizes.sum()
        others = (total - sizes[:, None] * power) / (sizes.sum() - sizes)[:, None]  # (B, K)
        slopes = torch.tensor([spectral_slope(frequency, other) for other in others])
        slope = spectral_slope(frequency, mean)
        error = delete_block_stderr(slope, slopes, sizes)
        options = {"frequencies": len(frequency)}
        falling = float((mean.diff() < 0).double().mean())
        found.append(Measurement(f"{name}_slope", slope, error, len(latents), options=options))
        found.append(Measurement(f"{name}_falling", falling, None, len(latents), options=options))
        spread = power.std(0, correction=1) / len(sizes) ** 0.5
        spectra.append(Spectrum(order, permuted, frequency, mean, spread))
    return found, not_applicable, spectra


def _blocks(count: int) -> Tensor:
    """Return the block (N,) int64 of each image, consecutive and of nearly equal sizes."""
    return torch.arange(count) * min(BLOCKS, count) // max(1, count)


def _quantiles(values: Tensor) -> Tensor:
    """Return the nearest-rank quantiles (L,) of (P,) values."""
    ordered = values.sort().values
    levels = torch.tensor(list(LEVELS.values()), dtype=torch.float64)
    return ordered[(levels * (len(ordered) - 1)).round().long()]
