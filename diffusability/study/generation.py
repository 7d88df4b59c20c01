"""Options of how generated images are judged, and of the references that they are compared with."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from diffusability.study.metric_group import Split
from diffusability.study.names import INCEPTION, EncoderName
from diffusability.study.representations import FDR6_SPACES
from diffusability.study.spec import Need, Spec, is_none, name_content

Control = Literal["noise", "gaussian", "posterior"]
LEAST_COMPARED = 40  # two images in each of the parts that the kernel distance is jackknifed by


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
    controls: tuple[Control, ...] = Field(
        (),
        exclude_if=lambda controls: not controls,
        description="sample sources without a diffusion model, measured once per tokenizer: noise "
        "decodes N(0, I) in z-scored latents, gaussian decodes draws of VIV's Gaussian per class, "
        "posterior decodes latents of val images. The stages of other samples do not change",
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
