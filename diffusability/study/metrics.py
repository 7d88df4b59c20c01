"""Options of every perspective that a study measures; one model a perspective."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from diffusability.study.names import EncoderName
from diffusability.study.spec import Spec

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


class ContinuityMetric(Spec):
    """iFID: Fréchet distance of images decoded between neighbouring latents."""

    split: Split = Field("val", description="images whose latents are interpolated from")
    pool: Split = Field("train", description="images whose latents are neighbours")
    extractor: EncoderName
    neighbours: PositiveInt = Field(10, description="K nearest from which one is drawn")
    distance: Literal["cosine", "l2"] = "cosine"
    same_class: bool = Field(False, description="neighbours of the same class only")
    choice: Literal["weighted", "nearest"] = "weighted"
    interpolation: Literal["slerp", "linear"] = "slerp"
    alpha: float = Field(0.5, ge=0, le=1, description="0: the latent, 1: its neighbour")


class UniformityMetric(Spec):
    """Density of single-pixel latents in a t-SNE embedding (VA-VAE's protocol)."""

    split: Split = "val"
    points: PositiveInt = Field(10_000, description="images a repeat, one pixel of each")
    repeats: int = Field(10, ge=2)
    perplexity: float = Field(30.0, gt=1)
    iterations: int = Field(1000, ge=250, description="of t-SNE")


class EquivarianceMetric(Spec):
    """Error of commuting encoding with transformations."""

    split: Split = "val"
    rotations: tuple[Literal[90, 180, 270], ...] = (90, 180, 270)
    scales: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    flip: bool = True


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
    continuity: ContinuityMetric
    uniformity: UniformityMetric = UniformityMetric()
    equivariance: EquivarianceMetric = EquivarianceMetric()
    reconstruction: ReconstructionMetric
    generation: GenerationMetric
