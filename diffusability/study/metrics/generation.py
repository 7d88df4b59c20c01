"""Options of how generated images are judged, and of the references that they are compared with."""

from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from diffusability.study.core.names import INCEPTION, EncoderName
from diffusability.study.core.spec import NamedContent, Need, OptionalPlace, Spec, is_none
from diffusability.study.entries.representations import FDR6_SPACES
from diffusability.study.metrics.metric_group import Split, first_paragraph
from diffusability.study.metrics.quantity import Quantity
from diffusability.study.sources.content import content_digest

Control = Literal["noise", "gaussian", "posterior"]
LEAST_COMPARED = 40  # two images in each of the parts that the kernel distance is jackknifed by


ABOUT_GENERATION = "How good are the images that a diffusion model generates?"
GENERATION = (
    Quantity(
        "generation.fd_*",
        "Fréchet distance between generated and real images; the name ends with the extractor",
        "lower",
        unit="feature^2",
    ),
    Quantity(
        "generation.fid generation.sfid",
        "the same in Inception's pooled and spatial features: FID and sFID",
        "lower",
        unit="feature^2",
    ),
    Quantity(
        "generation.kernel_distance_*",
        "squared maximum mean discrepancy with a cubic kernel (KID)",
        "lower",
    ),
    Quantity(
        "generation.fdr6 generation.fdr_*",
        "mean of six Fréchet distances, each over that of held-out real images; its terms",
        "lower",
    ),
    Quantity(
        "generation.inception_score_*", "confidence and diversity of class predictions", "higher"
    ),
    Quantity(
        "generation.class_accuracy_*",
        "share of samples that a classifier assigns to the requested class",
        "higher",
    ),
    Quantity(
        "generation.precision_* generation.recall_*",
        "share of samples near real images, and the reverse",
        "higher",
    ),
    Quantity(
        "generation.density_* generation.coverage_*",
        "number of real neighbourhoods around a sample; share of real neighbourhoods with a sample",
        "higher",
    ),
)
ABOUT_TRAJECTORY = "How straight are the paths from noise to latent?"
TRAJECTORY = (
    Quantity(
        "trajectory.straightness", "mean cosine of the angle between consecutive steps", "higher"
    ),
    Quantity(
        "trajectory.efficiency", "distance between end points over length of the path", "higher"
    ),
    Quantity("trajectory.angle", "mean angle between consecutive steps", "lower", unit="deg"),
)
TRAJECTORY_PROSE = r"""With steps $D_i = x_{i+1} - x_i$, $i = 0 \dots M-1$ (Eq. 10 and 11 of the
systematic study):

$$ \text{straightness} = \frac{1}{M-1} \sum_{i=0}^{M-2} \cos(D_i, D_{i+1}), \qquad
   \text{efficiency} = \frac{\lVert x_M - x_0 \rVert}{\sum_i \lVert D_i \rVert}. $$

The length of each step relative to a straight path at constant speed,
$M \lVert D_i \rVert / \lVert x_M - x_0 \rVert$, is in `profiles.csv`."""


class GenerationMetric(Spec):
    r"""Fréchet distance and class accuracy of generated images.

    $$ \mathrm{FD} = \lVert \mu_a - \mu_b \rVert^2 + \mathrm{tr}\,\big(S_a + S_b
       - 2 (S_a S_b)^{1/2}\big)
       \quad \text{(arXiv 1706.08500)}, $$

    $$ \mathrm{FDr6} = \frac16 \sum_{X} \frac{\mathrm{FD}_X(\text{generated}, \text{train})}
       {\mathrm{FD}_X(\text{validation}, \text{train})} \quad \text{(arXiv 2604.28190)}, $$

    $$ \mathrm{KID} = \mathrm{MMD}^2 \text{ with } k(x, y) = \big(x^\top y / D + 1\big)^3 \quad
       \text{(arXiv 1801.01401)}, \qquad
       \mathrm{IS} = \exp \mathbb{E}\,\mathrm{KL}\big(p(y \mid x) \,\Vert\, p(y)\big) \quad
       \text{(arXiv 1606.03498)}. $$

    A Fréchet distance is biased upwards by a term in $1/n$: compare only sets of the same size.
    **Only a distance in Inception features is called FID.** Others carry the name of their
    extractor: `fd_judge` is the Fréchet distance in the features of the encoder `judge`. Precision
    and recall: arXiv 1904.06991; density and coverage: arXiv 2002.09797.

    FDr6 needs six encoders under `metrics.generation.fdr6`. Its denominators are computed once for
    a dataset, at full precision, and stored with their hash. A study with many sets of samples sets
    `metrics.generation.compared: 10000`: features of real images are then extracted once, and so
    many of them serve kernel distance, precision and recall.
    """

    model_config = ConfigDict(json_schema_extra=first_paragraph)

    extractor: EncoderName
    reference: Split = Field("train", description="real images that samples are compared with")
    compared: int | None = Field(
        None,
        ge=LEAST_COMPARED,
        exclude_if=is_none,
        description="real images, evenly chosen, that kernel distance, precision and recall use; "
        "their features are then extracted once for all sets of samples. None: all, extracted "
        "again by every job, which is feasible for few images only",
    )
    fdr6: (
        Annotated[tuple[EncoderName, ...], Field(min_length=FDR6_SPACES, max_length=FDR6_SPACES)]
        | None
    ) = Field(
        None,
        exclude_if=is_none,
        description="six encoders in whose features FDr6 compares samples with the train split, "
        "relative to the distance of the val split; none: not measured",
    )
    controls: tuple[Control, ...] = Field(
        (),
        exclude_if=lambda controls: not controls,
        description="sample sources without a diffusion model, measured once per tokenizer: noise "
        "decodes N(0, I) in z-scored latents, gaussian decodes draws of VIV's Gaussian per class, "
        "posterior decodes latents of val images. The stages of other samples do not change",
    )
    reference_statistics: OptionalPlace = Field(
        None,
        description="npz of the ADM evaluator, whose moments FID and sFID take instead of those "
        "of the reference images; not part of the fingerprint",
    )
    reference_content: str | None = Field(
        None,
        exclude_if=is_none,
        description="name of what that file holds; part of the fingerprint. By default its "
        "SHA-256, or the file's name while it is not there",
    )
    reference_count: PositiveInt | None = Field(
        None, exclude_if=is_none, description="images behind the file; none: 1,281,167 (ImageNet)"
    )
    reference_resolution: PositiveInt | None = Field(
        None,
        exclude_if=is_none,
        description="side in pixels of those images, if the file does not contain them",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_content(cls, data: Any) -> Any:
        file = data.get("reference_statistics") if isinstance(data, dict) else None
        if not isinstance(file, str):
            return data
        return {"reference_content": content_digest(file) or PurePath(file).name} | data

    def named_contents(self) -> tuple[NamedContent, ...]:
        """The file of reference statistics, where the study names its content."""
        file, name = self.reference_statistics, self.reference_content
        found = None if file is None else content_digest(file)
        if file is None or name is None or found in (None, name):
            return ()
        return (NamedContent("reference statistics", name, {"file": found}, file),)

    def judged(self) -> dict[str, Any]:
        """Return the canonical options that the measurements of one set of samples depend on."""
        return {key: value for key, value in self.canonical().items() if key != "controls"}

    @model_validator(mode="after")
    def _each_once(self) -> "GenerationMetric":
        if len(set(self.controls)) != len(self.controls):
            raise ValueError(f"duplicate control in {list(self.controls)}")
        return self

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
    """Where published moments of the reference images are; fields of `GenerationMetric`."""

    reference_content: str | None = Field(None, exclude_if=is_none)
    reference_count: PositiveInt | None = Field(None, exclude_if=is_none)
    reference_resolution: PositiveInt | None = Field(None, exclude_if=is_none)
    reference_statistics: OptionalPlace = None


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
    """What FDr6 compares every sample set with; made once for a dataset and six encoders.

    Its fields are those of `GenerationMetric`. Published statistics are used for Inception only.
    """

    fdr6: tuple[EncoderName, ...]

    @classmethod
    def of(cls, metric: GenerationMetric) -> "Fdr6Reference":
        """Return the reference of a study's FDr6."""
        assert metric.fdr6 is not None
        published = set(cls.model_fields) if INCEPTION in metric.fdr6 else {"fdr6"}
        return cls(**{name: getattr(metric, name) for name in published})
