"""The metric groups that a study measures on latents: options and declaration, side by side.

To add one, declare its options model here. `docs/extending.md` walks through it.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, create_model, model_validator

from diffusability.study.generation import GenerationMetric
from diffusability.study.metric_group import MetricGroups, MetricOptions, Passes, Split
from diffusability.study.names import EncoderName
from diffusability.study.spec import Spec, is_none

METRIC_GROUPS = MetricGroups()


@METRIC_GROUPS.add(
    "velocity",
    code="diffusability.metrics.velocity:measure_velocity",
    about="Velocity irreducible variance (VIV): how much of the velocity no network can predict.",
    reads=("mean", "labels"),
    generator="halves",
    title="velocity ambiguity",
    shows={"VIV": "velocity.viv"},
    rank="headline",
)
class VelocityMetric(MetricOptions):
    """Velocity irreducible variance (VIV)."""


@METRIC_GROUPS.add(
    "semantics",
    code="diffusability.metrics.semantics:measure_semantics",
    about="Latent neighbour consistency (LNC): do neighbours share their class?",
    reads=("mean", "labels", "foreground"),
    generator="folds",
    title="semantic separability",
    shows={"LNC": "semantics.lnc5"},
    rank="headline",
    needs=("classes",),
)
class SemanticsMetric(MetricOptions):
    """Latent neighbour consistency (LNC)."""

    neighbours: tuple[PositiveInt, ...] = Field(
        (1, 5, 10, 20), min_length=1, description="numbers K of nearest neighbours"
    )


@METRIC_GROUPS.add(
    "spatial",
    code="diffusability.stages.latent_metrics:spatial",
    about="Spatial structure (SRSS, LDS, CDS, RMSC): do nearby cells agree?",
    title="spatial structure",
    shows={"SRSS": "spatial.srss", "LDS": "spatial.lds", "CDS": "spatial.cds"},
    rank="headline",
    needs=("grid",),
)
class SpatialMetric(MetricOptions):
    """Spatial structure: LDS, CDS, SRSS, RMSC."""


@METRIC_GROUPS.add(
    "smoothness",
    code="diffusability.metrics.smoothness:measure_smoothness",
    about="Spectral energy concentration (SEC): how much of the energy is high-frequency?",
    reads=("mean",),
    title="spectral smoothness",
    shows={"SEC": "smoothness.sec25"},
    rank="headline",
    needs=("grid",),
)
class SmoothnessMetric(MetricOptions):
    """Spectral energy concentration (SEC) and its relatives."""


@METRIC_GROUPS.add(
    "continuity",
    code="diffusability.stages.image_metrics:continuity",
    about="iFID: are images decoded between neighbouring latents still real?",
    title="manifold continuity",
    shows={"iFD": "continuity.if*"},
    rank="proxy",
    outputs=("neighbours.safetensors",),
    version=2,
    gpu=True,
    needs=(
        "images",
        "network",
    ),
)
class ContinuityMetric(MetricOptions):
    """iFID: Fréchet distance of images decoded between neighbouring latents."""

    split: Split = Field("val", description="images whose latents are interpolated from")
    pool: Split = Field("train", description="images whose latents are neighbours")
    extractor: EncoderName
    neighbours: PositiveInt = Field(10, description="K nearest from which one is drawn")
    distance: Literal["cosine", "l2"] = Field("cosine", description="between latents")
    same_class: bool = Field(False, description="neighbours of the same class only")
    choice: Literal["weighted", "nearest"] = Field(
        "weighted", description="draw a neighbour, closer ones more often; or take the nearest"
    )
    interpolation: Literal["slerp", "linear"] = Field(
        "slerp", description="path between the latents: spherical or straight"
    )
    alpha: float = Field(0.5, ge=0, le=1, description="0: the latent, 1: its neighbour")

    @property
    def encoders(self) -> dict[str, str]:
        """The feature extractor of the distances."""
        return {"extractor": self.extractor}

    def passes(self) -> Passes:
        """Every latent is compared with the pool, one is decoded, two images are judged."""
        return Passes(decoder=1, extractor=2, pool=self.pool)


@METRIC_GROUPS.add(
    "uniformity",
    code="diffusability.stages.latent_metrics:uniformity",
    about="How evenly do single-pixel latents spread?",
    title="distribution uniformity",
    shows={
        "entropy": "uniformity.normalised_entropy",
        "density CV": "uniformity.density_cv",
        "Gini": "uniformity.gini",
    },
    rank="proxy",
    version=2,
)
class UniformityMetric(MetricOptions):
    """Density of single-pixel latents in a t-SNE embedding (VA-VAE's protocol)."""

    points: PositiveInt = Field(10_000, description="images per repeat, one pixel of each")
    repeats: int = Field(10, ge=2, description="embeddings that the result is averaged over")
    perplexity: float = Field(30.0, gt=1, description="of t-SNE")
    iterations: int = Field(1000, ge=250, description="of t-SNE")


@METRIC_GROUPS.add(
    "equivariance",
    code="diffusability.stages.image_metrics:equivariance",
    about="Does encoding commute with rotation, scaling and flipping?",
    title="affine equivariance",
    shows={
        "scale error": "equivariance.scale_error",
        "rotate error": "equivariance.rotate_error",
    },
    gpu=True,
    needs=(
        "grid",
        "images",
        "network",
    ),
)
class EquivarianceMetric(MetricOptions):
    """Error of commuting encoding with transformations."""

    rotations: tuple[Literal[90, 180, 270], ...] = Field(
        (90, 180, 270), description="degrees counter-clockwise"
    )
    scales: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), description="factors that images and latents are shrunk by"
    )
    flip: bool = Field(True, description="flip horizontally too")

    def passes(self) -> Passes:
        """Each image is encoded as it is and transformed."""
        return Passes(encoder=1 + len(self.rotations) + len(self.scales) + self.flip)


@METRIC_GROUPS.add(
    "reconstruction",
    code="diffusability.stages.image_metrics:reconstruction",
    about="What the tokenizer itself loses: PSNR, SSIM, Fréchet distance.",
    outputs=("reconstructions.png",),
    upstream=("alignment",),
    version=2,
    gpu=True,
    needs=(
        "images",
        "network",
    ),
)
class ReconstructionMetric(MetricOptions):
    """PSNR, SSIM, LPIPS and Fréchet distance of reconstructions."""

    extractor: EncoderName | None = Field(
        None, description="encoder of the Fréchet distance; none: not measured"
    )
    lpips: EncoderName | None = Field(
        None, exclude_if=is_none, description="encoder of kind lpips; none: not measured"
    )

    @property
    def encoders(self) -> dict[str, str]:
        """The feature extractor of the distances, and LPIPS where it is measured."""
        named = {"extractor": self.extractor, "lpips": self.lpips}
        return {role: name for role, name in named.items() if name is not None}

    def fingerprinted(self) -> dict[str, Any]:
        """Return the options without the name of LPIPS, which is in no metric's name."""
        return {key: value for key, value in self.canonical().items() if key != "lpips"}

    def passes(self) -> Passes:
        """Each latent is decoded; features are extracted from the image and its reconstruction."""
        return Passes(decoder=1, extractor=0 if self.extractor is None else 2)


@METRIC_GROUPS.add(
    "geometry",
    code="diffusability.stages.latent_metrics:geometry",
    about="Does encoding keep distances, and what spectra do latents have?",
    outputs=("spectra.csv",),
    needs=("images",),
)
class GeometryMetric(MetricOptions):
    """Stretching of distances (bi-Lipschitz constants) and power spectra of latents."""

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
    probes: PositiveInt = Field(1, description="random directions per noisy latent")
    draws: PositiveInt = Field(1, description="noises per latent")
    seeds: Literal["first", "all"] = Field(
        "all", description="models of the first pair of seeds of a tokenizer, or of all"
    )
    backbones: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all", description="backbones whose models are measured"
    )


class LearnedFisherOptions(LearnedFisherMetric):
    """What is measured of one trained model."""

    variances: tuple[Annotated[float, Field(gt=0)], ...]


@METRIC_GROUPS.add(
    "fisher",
    code="diffusability.stages.latent_metrics:fisher",
    about="Fisher information, its rate and the MMSE rate of fits; deviations from pixel space.",
    title="Fisher geometry",
    shows={
        "FIR": "fisher.fir",
        "MMSE rate": "fisher.mmse_rate",
        "FIR deviation": "fisher.fir_deviation_per_dimension",
        "learned FIR": "fisher.learned_fir",
    },
    rank="proxy",
    upstream=("pixels",),
)
class FisherMetric(MetricOptions):
    """Fisher information, its rate and the MMSE rate, and their deviations from pixel space."""

    split: Split = Field("val", description="images whose latents, and pixels, are fitted")
    variances: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        min_length=2,
        description="noise variances sigma^2, increasing; latents have variance 1 a channel",
    )
    blocks: int = Field(10, ge=2, description="blocks of images of the jackknife errors")
    samples: int = Field(128, ge=2, description="Monte-Carlo points of a mixture per variance")
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

    def fingerprinted(self) -> dict[str, Any]:
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


class _Metrics(Spec):
    """Metrics of latents, one key per declared group, and of generated images.

    What has no key is not measured.
    """

    generation: GenerationMetric | None = Field(
        None, description="of generated images; needed where there are backbones"
    )

    @property
    def groups(self) -> dict[str, MetricOptions]:
        """Options of the groups that are measured, by name, in the order of declaration."""
        found = {name: getattr(self, name) for name in METRIC_GROUPS}
        return {name: options for name, options in found.items() if options is not None}


if TYPE_CHECKING:

    class MetricsSpec(_Metrics):
        """The declared groups are its fields."""

        def __getattr__(self, name: str) -> Any: ...

else:
    MetricsSpec = create_model(
        "MetricsSpec", __base__=_Metrics, __doc__=_Metrics.__doc__, **METRIC_GROUPS.fields()
    )
