"""FIR deviation of a latent space from pixel space: four readings of Definition 3.2.

The paper's formula is not recoverable from its text (arXiv 2604.02751), so every reading is
reported under its own name.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A FIR with what is needed to compare it with another.

    Attributes:
        fir: per data unit to the fourth.
        dim: ambient dimensions.
        stderr: standard error; 0 for an exact value.
    """

    fir: float
    dim: int
    stderr: float = 0.0


@dataclass(frozen=True)
class Reading:
    """One reading of the deviation, a pure number, and its standard error to first order."""

    value: float
    stderr: float


@dataclass(frozen=True)
class FirDeviation:
    """Four readings; each is 0 where the latent space changes nothing.

    Attributes:
        relative: |F_D - F_d| / F_D.
        scaled: v^2 |F_D - F_d| / D.
        per_dimension: |F_D / D - F_d / d| / (F_D / D).
        intrinsic: |F_D - F_d| / F_D after taking (D - m) / v^2 and (d - m) / v^2 off, what the
            normal directions of an m-dimensional support add (Lemma B.1). NaN where nothing
            positive is left of F_D, which happens to learned scores only.
    """

    relative: Reading
    scaled: Reading
    per_dimension: Reading
    intrinsic: Reading


# of FI, of FIR in three readings, and of the MMSE rate, which is that of FIR where the dimension
# of the data's support is not known: normal directions add nothing to it
DEVIATIONS = (
    "fi_deviation",
    "fir_deviation_relative",
    "fir_deviation_scaled",
    "fir_deviation_per_dimension",
    "mmse_rate_deviation",
)


def fir_deviation(pixel: Rate, latent: Rate, v: float, intrinsic_dim: int) -> FirDeviation:
    """Return the four readings at one noise variance.

    Args:
        pixel: FIR of the data, in D dimensions.
        latent: FIR of the latents, in d dimensions.
        v: noise variance of both.
        intrinsic_dim: m, dimension of the data's support.
    """
    square = v**2
    gap = abs(pixel.fir - latent.fir)
    gap_stderr = math.hypot(pixel.stderr, latent.stderr)
    core = pixel.fir - (pixel.dim - intrinsic_dim) / square
    core_latent = latent.fir - (latent.dim - intrinsic_dim) / square
    return FirDeviation(
        distance_from_one(latent.fir, latent.stderr, pixel.fir, pixel.stderr),
        Reading(square * gap / pixel.dim, square * gap_stderr / pixel.dim),
        distance_from_one(
            latent.fir / latent.dim,
            latent.stderr / latent.dim,
            pixel.fir / pixel.dim,
            pixel.stderr / pixel.dim,
        ),
        distance_from_one(core_latent, latent.stderr, core, pixel.stderr),
    )


def distance_from_one(value: float, error: float, base: float, base_error: float) -> Reading:
    """Return |1 - value / base|, the two taken as independent; NaN where base is not positive.

    Args:
        value: a quantity of the latent space. error: its standard error.
        base: that of pixel space. base_error: its standard error.
    """
    if base <= 0:
        return Reading(math.nan, math.nan)
    ratio = value / base
    return Reading(abs(1 - ratio), math.hypot(error, ratio * base_error) / base)
