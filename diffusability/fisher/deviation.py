"""FIR deviation of a latent space from pixel space: four readings of Definition 3.2.

The paper's formula is not recoverable from its text (arXiv 2604.02751), so every reading is
reported under its own name.
"""

from dataclasses import dataclass

from diffusability.fisher.information import FisherInformation


@dataclass(frozen=True)
class FirDeviation:
    """Four readings; each is a pure number, 0 where the latent space changes nothing.

    Attributes:
        relative: |F_D - F_d| / F_D.
        scaled: v^2 |F_D - F_d| / D.
        per_dimension: |F_D / D - F_d / d| / (F_D / D).
        intrinsic: |F_D - F_d| / F_D after taking (D - m) / v^2 and (d - m) / v^2 off, what the
            normal directions of an m-dimensional support add (Lemma B.1).
    """

    relative: float
    scaled: float
    per_dimension: float
    intrinsic: float


def fir_deviation(
    pixel: FisherInformation, latent: FisherInformation, intrinsic_dim: int
) -> FirDeviation:
    """Return the four readings at one noise variance.

    Args:
        pixel: information of the data, in D dimensions.
        latent: that of the latents, in d dimensions, at the same v.
        intrinsic_dim: m, dimension of the data's support.

    Raises:
        ValueError: the noise variances differ.
    """
    if pixel.v != latent.v:
        raise ValueError(f"noise variances {pixel.v} and {latent.v} differ")
    square = pixel.v**2
    gap = abs(pixel.fir - latent.fir)
    mean = pixel.fir / pixel.dim
    core = pixel.fir - (pixel.dim - intrinsic_dim) / square
    core_latent = latent.fir - (latent.dim - intrinsic_dim) / square
    return FirDeviation(
        gap / pixel.fir,
        square * gap / pixel.dim,
        abs(mean - latent.fir / latent.dim) / mean,
        abs(core - core_latent) / core,
    )
