"""Options of every perspective that a study measures; one model a perspective."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from diffusability.study.names import INCEPTION, EncoderName
from diffusability.study.representations import FDR6_SPACES
from diffusability.study.spec import Need, Spec, is_none, name_content

Split = Literal["train", "val", "all"]
LEAST_COMPARED = 40  # two images in each of the parts that the kernel distance is jackknifed by


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
    """PSNR, SSIM, LPIPS and Fréchet distance of reconstructions."""

    split: Split = "val"
    extractor: EncoderName
    lpips: EncoderName | None = Field(
        None, exclude_if=is_none, description="encoder of kind lpips; none: not measured"
    )


class GeometryMetric(Spec):
    """Stretching of distances (bi-Lipschitz constants) and power spectra of latents."""

    split: Split = "val"
    images: int = Field(
        500, ge=20, description="at most that many, the first of the split in a random order"
    )


class LearnedFisherMetric(Spec):
    """The same quantities from the trained diffusion models, by one JVP a probe."""

    split: Split = Field(
        "val",
        description="images whose latents (a draw of each posterior) are diffused; best held out",
    )
    latents: int = Field(512, ge=20, description="at most so many, evenly over the split")
    probes: PositiveInt = Field(1, description="random directions a noisy latent")
    draws: PositiveInt = Field(1, description="noises a latent")
    seeds: Literal["first", "all"] = Field(
        "all", description="models of the first pair of seeds of a tokenizer, or of all"
    )
    backbones: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"


class FisherMetric(Spec):
    """Fisher information, its rate and the MMSE rate, and their deviations from pixel space."""

    split: Split = Field("val", description="images whose latents, and pixels, are fitted")
    variances: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        min_length=2,
        description="noise variances sigma^2, increasing; latents have variance 1 a channel",
    )
    blocks: int = Field(10, ge=2, description="blocks of images of the jackknife errors")
    samples: int = Field(128, ge=2, description="Monte-Carlo points of a mixture a variance")
    learned: LearnedFisherMetric | None = Field(
        None, description="how trained models are measured; none: they are not"
    )
    reference: str | None = Field(
        None,
        description="tokenizer that is the identity on pixels: its models are what the learned "
        "curves of the others deviate from",
    )

    @model_validator(mode="after")
    def _increasing(self) -> "FisherMetric":
        if any(a >= b for a, b in pairwise(self.variances)):
            raise ValueError(f"variances must increase, got {list(self.variances)}")
        return self

    @model_validator(mode="after")
    def _reference_of_learned(self) -> "FisherMetric":
        if self.reference is not None and self.learned is None:
            raise ValueError("reference compares learned curves, and learned is not given")
        return self

    def fits(self) -> dict[str, Any]:
        """Return what the fits without training depend on."""
        return self.model_dump(mode="json", exclude={"learned", "reference"})

    def pixels(self) -> dict[str, Any]:
        """Return what the fit of the images themselves depends on."""
        return self.model_dump(mode="json", include={"split", "variances", "blocks"})

    def models(self) -> dict[str, Any]:
        """Return what the measurement of one trained model depends on, where it is asked for."""
        assert self.learned is not None
        options = self.learned.model_dump(mode="json", exclude={"seeds", "backbones"})
        return options | {"variances": list(self.variances)}


class GenerationMetric(Spec):
    """Fréchet distance and class accuracy of generated images."""

    extractor: EncoderName
    reference: Split = Field("train", description="real images that samples are compared with")
    compared: int | None = Field(
        None,
        ge=LEAST_COMPARED,
        exclude_if=is_none,
        description="real images, evenly chosen, that kernel distance, precision and recall look "
        "at; the reference's features are then extracted once for all sets of samples. None: all, "
        "extracted anew by every job, which only few images allow",
    )
    fdr6: (
        Annotated[tuple[EncoderName, ...], Field(min_length=FDR6_SPACES, max_length=FDR6_SPACES)]
        | None
    ) = Field(
        None,
        exclude_if=is_none,
        description="six encoders in whose features FDr6 compares samples with the train split, "
        "in units of what the val split is away from it; none: not measured",
    )
    reference_statistics: Annotated[str | None, Field(exclude=True)] = Field(
        None,
        description="npz of the ADM evaluator, whose moments FID and sFID take instead of those "
        "of the reference images; not part of the fingerprint",
    )
    reference_content: str | None = Field(
        None,
        exclude_if=is_none,
        description="what that file holds; part of the fingerprint. By default its name",
    )
    reference_count: PositiveInt | None = Field(
        None, exclude_if=is_none, description="images behind the file; none: 1,281,167 (ImageNet)"
    )
    reference_resolution: PositiveInt | None = Field(
        None,
        exclude_if=is_none,
        description="side in pixels of those images, where the file holds none of them",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_content(cls, data: Any) -> Any:
        return name_content(data, "reference_statistics", "reference_content")

    @model_validator(mode="after")
    def _of_a_file(self) -> "GenerationMetric":
        if self.reference_content is None and (self.reference_count or self.reference_resolution):
            raise ValueError(
                "reference_count and reference_resolution describe reference_statistics, which "
                "is not given"
            )
        return self

    def needs(self) -> tuple[Need, ...]:
        """The file of reference statistics, where one is named."""
        if self.reference_statistics is None:
            return ()
        remedy = (
            "download VIRTUAL_imagenet256_labeled.npz (the ADM evaluator's reference) and set "
            "metrics.generation.reference_statistics to it, or leave the key out"
        )
        path = Path(self.reference_statistics)
        return (Need(f"reference statistics `{self.reference_content}`", path, remedy),)


class PublishedReference(Spec):
    """Where published moments of the reference images lie; fields of `GenerationMetric`."""

    reference_content: str | None = Field(None, exclude_if=is_none)
    reference_count: PositiveInt | None = Field(None, exclude_if=is_none)
    reference_resolution: PositiveInt | None = Field(None, exclude_if=is_none)
    reference_statistics: Annotated[str | None, Field(exclude=True)] = None


class GenerationReference(PublishedReference):
    """What every set of samples is compared with; made once for a dataset and an extractor.

    Its fields are those of `GenerationMetric`.
    """

    extractor: EncoderName
    reference: Split
    compared: int

    @classmethod
    def of(cls, metric: GenerationMetric) -> "GenerationReference":
        """Return the reference of a study's generation metrics."""
        return cls(**{name: getattr(metric, name) for name in cls.model_fields})


class Fdr6Reference(PublishedReference):
    """What FDr6 holds every sample set against; made once for a dataset and six encoders.

    Its fields are those of `GenerationMetric`; the published statistics stand for Inception alone.
    """

    fdr6: tuple[EncoderName, ...]

    @classmethod
    def of(cls, metric: GenerationMetric) -> "Fdr6Reference":
        """Return the reference of a study's FDr6."""
        assert metric.fdr6 is not None
        published = set(cls.model_fields) if INCEPTION in metric.fdr6 else {"fdr6"}
        return cls(**{name: getattr(metric, name) for name in published})


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
    fisher: FisherMetric = FisherMetric()
    generation: GenerationMetric
    geometry: GeometryMetric | None = Field(None, description="none: not measured")
