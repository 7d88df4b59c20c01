"""FIR deviation of a latent space from pixel space: four interpretations of Definition 3.2.

The paper's text (arXiv 2604.02751) does not determine the formula, so every interpretation is
reported under its own name.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A FIR with its dimension and standard error.

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
    """One form of the deviation, a pure number, with its first-order standard error."""

    value: float
    stderr: float


@dataclass(frozen=True)
class FirDeviation:
    """Four forms of the deviation; each is 0 if the latent space changes nothing.

    Attributes:
        relative: |F_D - F_d| / F_D.
        scaled: v^2 |F_D - F_d| / D.
        per_dimension: |F_D / D - F_d / d| / (F_D / D).
        intrinsic: |F_D - F_d| / F_D after subtracting (D - m) / v^2 and (d - m) / v^2, the
            contribution of the normal directions of an m-dimensional support (Lemma B.1). NaN if
            F_D is then not positive, which happens only for learned scores.
    """

    relative: Reading
    scaled: Reading
    per_dimension: Reading
    intrinsic: Reading


# of FI, of FIR in three forms, and of the MMSE rate, to which normal directions add nothing: the
# substitute for FIR if the dimension of the data's support is not known
DEVIATIONS = (
    "fi_deviation",
    "fir_deviation_relative",
    "fir_deviation_scaled",
    "fir_deviation_per_dimension",
    "mmse_rate_deviation",
)


def fir_deviation(pixel: Rate, latent: Rate, v: float, intrinsic_dim: int) -> FirDeviation:
    """Return the four forms at one noise variance.

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
    """Return |1 - value / base|, treated as independent; NaN if base is not positive.

    Args:
        value: a quantity of the latent space. error: its standard error.
        base: the same quantity of pixel space. base_error: its standard error.
    """
    if base <= 0:
        return Reading(math.nan, math.nan)
    ratio = value / base
    return Reading(abs(1 - ratio), math.hypot(error, ratio * base_error) / base)
