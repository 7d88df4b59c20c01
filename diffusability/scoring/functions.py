"""The metrics of latents, one function each, all with one signature.

Args of all:
    latents: (N, C, H, W), or tokens (N, L, D) where the metric is defined for them, floating-point,
        in any unit; torch, numpy or memory-mapped.
    labels: (N,) integer classes; None: all of one class.
    masks: (N, h, w) foreground, true or false or its share in [0, 1], at the resolution of the
        images or of the latents.
    seed: of all that is drawn at random; 0 draws what a study draws, so that equal latents and
        options give its numbers. The linear probe and uniformity of a study read more than arrays
        hold: the training set, and draws of the posteriors.
    options: as under `metrics` of a study file (docs/options.md), without those that ask for what
        arrays do not hold.

All return `Measurements` and raise `MeasurementError` for bad input, and where the metric does not
apply to it; the message says why.
"""

from typing import Any

from diffusability.scoring.latents import Array, measure
from diffusability.scoring.measured import Measurements


def velocity(
    latents: Array,
    labels: Array | None = None,
    masks: Array | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Measurements:
    """Measure velocity irreducible variance (`velocity.viv`, LOWER is better) and its parts.

    Without labels it is of one Gaussian, unconditional, and a flag says so. With
    `unconditional_fallback=True` it also is where a class has too few images. With `quick=True`
    errors of large sets take a minute instead of many. Tokens: defined.
    """
    return measure("velocity", latents, labels, masks, seed=seed, **options)


def semantics(
    latents: Array,
    labels: Array | None = None,
    masks: Array | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Measurements:
    """Measure latent neighbour consistency (`semantics.lnc5`, HIGHER is better) and a probe.

    Needs labels of two classes or more. Tokens: defined.
    """
    return measure("semantics", latents, labels, masks, seed=seed, **options)


def spatial(
    latents: Array,
    labels: Array | None = None,
    masks: Array | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Measurements:
    """Measure spatial structure: LDS, CDS, and with masks SRSS (HIGHER is better).

    Tokens: refused, they have no position on a grid.
    """
    return measure("spatial", latents, labels, masks, seed=seed, **options)


def smoothness(
    latents: Array,
    labels: Array | None = None,
    masks: Array | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Measurements:
    """Measure spectral energy concentration (`smoothness.sec25`, LOWER is better).

    Tokens: refused, they have no position on a grid.
    """
    return measure("smoothness", latents, labels, masks, seed=seed, **options)


def uniformity(
    latents: Array,
    labels: Array | None = None,
    masks: Array | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Measurements:
    """Measure how evenly the cells of latents spread: density CV, Gini, normalised entropy.

    Tokens: defined, one token at random per image.
    """
    return measure("uniformity", latents, labels, masks, seed=seed, **options)


def fisher(
    latents: Array,
    labels: Array | None = None,
    masks: Array | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Measurements:
    """Measure FI, FIR and MMSE rate of fits to latents (FIR and rate: LOWER is better).

    Deviations from pixel space need images, and are not among them. Tokens: defined.
    """
    return measure("fisher", latents, labels, masks, seed=seed, **options)
