"""Options of every perspective that a study measures; one model a perspective."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from diffusability.study.spec import Spec
from diffusability.study.tokenizer import EncoderName

Split = Literal["train", "val", "all"]


class VelocityMetric(Spec):
    """Velocity irreducible variance (VIV)."""

    split: Split = Field("val", description="images whose latents are measured")


class SemanticsMetric(Spec):
    """Latent neighbour consistency (LNC)."""

    split: Split = "val"
    neighbours: tuple[PositiveInt, ...] = Field((1, 5, 10, 20), min_length=1)


class SpatialMetric(Spec):
    """Spatial structure: LDS, CDS, SRSS, RMSC."""

    split: Split = "val"


class SmoothnessMetric(Spec):
    """Spectral energy concentration (SEC) and its relatives."""

    split: Split = "val"
    rho: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.25, 0.5), min_length=1)


class ReconstructionMetric(Spec):
    """PSNR, SSIM and Fréchet distance of reconstructions."""

    split: Split = "val"
    extractor: EncoderName


class GenerationMetric(Spec):
    """Fréchet distance and class accuracy of generated images."""

    extractor: EncoderName
    reference: Split = Field("train", description="real images that samples are compared with")


class MetricsSpec(Spec):
    """The perspectives of the study."""

    velocity: VelocityMetric = VelocityMetric()
    semantics: SemanticsMetric = SemanticsMetric()
    spatial: SpatialMetric = SpatialMetric()
    smoothness: SmoothnessMetric = SmoothnessMetric()
    reconstruction: ReconstructionMetric
    generation: GenerationMetric
