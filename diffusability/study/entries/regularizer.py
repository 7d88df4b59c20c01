"""Regularizers that set tokenizers apart: the nine clusters of Table 1, by `method`, and GPE."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from diffusability.study.core.names import EncoderName
from diffusability.study.core.registry import Registry
from diffusability.study.core.spec import Probability, Spec
from diffusability.study.sources.python_object import PythonObject


class Regularizer(Spec):
    """What every entry has; an option called `encoder` names the encoder whose features it needs.

    A regularizer is declared with `REGULARIZERS.add`: a subclass with
    `method: Literal["its name"]`, and the `tokenizers.regularizers.interface.Regularizer` that
    takes it as `module:class`.

    Attributes:
        balanced: whether its loss has an adaptive factor, for which gradients of the reconstruction
            go back to the encoder's last layer once more.
    """

    balanced: ClassVar[bool] = False

    method: str = Field(description="the regularizer")

    def misfits(self, grid: int) -> Iterator[tuple[str, str]]:
        """Yield key and reason of every option that a latent of grid x grid cells rules out."""
        yield from ()

    def smallest_grid(self, grid: int) -> int:
        """Return the side, in cells, of the smallest latent that the training decodes."""
        return grid


REGULARIZERS: Registry[Regularizer] = Registry("method", tag="method")
CODE = "diffusability.tokenizers.regularizers"


@REGULARIZERS.add(f"{CODE}.interface:Regularizer")
class Baseline(Regularizer):
    """No regularizer."""

    method: Literal["baseline"]


@REGULARIZERS.add(f"{CODE}.alignment:RepresentationAlignment")
class Repa(Regularizer):
    """Representation alignment through a small network."""

    balanced = True

    method: Literal["repa"]
    encoder: EncoderName
    weight: NonNegativeFloat = Field(0.1, description="before the adaptive factor")
    hidden: PositiveInt = Field(2048, description="width of the projecting network")


@REGULARIZERS.add(f"{CODE}.alignment:VisionAlignment")
class Mcos(Regularizer):
    """VA-VAE's marginal cosine similarity alone."""

    balanced = True

    method: Literal["mcos"]
    encoder: EncoderName
    weight: NonNegativeFloat = Field(0.1, description="before the adaptive factor")
    cosine_margin: float = Field(
        0.5, ge=0, le=2, description="m1; cosines above 1 - m1 have no loss"
    )


@REGULARIZERS.add(f"{CODE}.alignment:VisionAlignment")
class Mdms(Regularizer):
    """VA-VAE's marginal distance-matrix similarity alone."""

    balanced = True

    method: Literal["mdms"]
    encoder: EncoderName
    weight: NonNegativeFloat = Field(0.1, description="before the adaptive factor")
    distance_margin: float = Field(
        0.25, ge=0, le=2, description="m2; similarities that differ by less have no loss"
    )


@REGULARIZERS.add(f"{CODE}.alignment:VisionAlignment")
class McosMdms(Regularizer):
    """VA-VAE's alignment: marginal cosine plus marginal distance-matrix similarity."""

    balanced = True

    method: Literal["mcos+mdms"]
    encoder: EncoderName
    weight: NonNegativeFloat = Field(0.1, description="before the adaptive factor")
    cosine_margin: float = Field(
        0.5, ge=0, le=2, description="m1; cosines above 1 - m1 have no loss"
    )
    distance_margin: float = Field(
        0.25, ge=0, le=2, description="m2; similarities that differ by less have no loss"
    )


@REGULARIZERS.add(f"{CODE}.eq:Equivariance")
class Eq(Regularizer):
    """EQ-VAE: the decoder must undo a transformation made on the latent."""

    method: Literal["eq"]
    operators: tuple[Literal["scale", "flip", "rotation"], ...] = Field(
        ("scale",), min_length=1, description="transformations of the latent, combined"
    )
    probability: Probability = Field(0.5, description="of transforming the latent in a step")
    prior_probability: Probability = Field(
        0.25, description="of downscaling the image in a step whose latent is not transformed"
    )

    def misfits(self, grid: int) -> Iterator[tuple[str, str]]:
        """Yield the operators where the grid cannot be scaled to a whole smaller one."""
        if "scale" in self.operators and grid < 2:
            yield (
                "operators",
                f"scale does not exist on a latent grid of {grid} x {grid}; choose flip or "
                "rotation, or a smaller factor",
            )

    def smallest_grid(self, grid: int) -> int:
        """Return a quarter of the side, rounded up, where the latent is scaled."""
        scaled = "scale" in self.operators and (self.probability or self.prior_probability)
        return -(-grid // 4) if scaled else grid


@REGULARIZERS.add(f"{CODE}.lcr:LocalCorrelation")
class Lcr(Regularizer):
    """SSVAE's local correlation regularization."""

    balanced = True

    method: Literal["lcr"]
    weight: NonNegativeFloat = Field(0.02, description="w of Table 1")
    threshold: float = Field(0.75, ge=-1, le=1, description="th of Table 1")
    factor: NonNegativeFloat = Field(0.1, description="inner factor of the authors' code")


@REGULARIZERS.add(f"{CODE}.masking:LatentMasking")
class Lmr(Regularizer):
    """SSVAE's latent masking: full images from latents with holes."""

    method: Literal["lmr"]
    probabilities: tuple[Probability, Probability, Probability] = Field(
        (0.1, 0.1, 0.1), description="of masking 25, 50 and 75 % (p a-b-c of Table 1)"
    )
    shared: bool = Field(True, description="same positions for all images of a batch")

    @model_validator(mode="after")
    def _probabilities(self) -> "Lmr":
        if sum(self.probabilities) > 1 + 1e-9:
            raise ValueError(f"probabilities {list(self.probabilities)} sum to more than one")
        return self


@REGULARIZERS.add(f"{CODE}.masking:ImageMasking")
class Mae(Regularizer):
    """Masked patches at the encoder's input; for transformers only."""

    method: Literal["mae"]
    ratio: float = Field(0.7, gt=0, lt=1, description="maximum masking ratio (r of Table 1)")


@REGULARIZERS.add("diffusability.tokenizers.geometry_preservation:geometry_preservation_loss")
class Gpe(Regularizer):
    """Geometry-preserving encoder, then a decoder of it: two trainings of `train.steps` each.

    The objective's reconstruction terms are the decoder's; the encoder has its own loss.
    """

    method: Literal["gpe"]
    decoder_steps: PositiveInt | None = Field(
        None, description="optimizer steps of the decoder; none: as many as the encoder's"
    )
    decoder_noise: NonNegativeFloat = Field(
        0.0,
        description="standard deviation of the noise on the decoder's input while it is trained, "
        "in units of the latent's root mean square",
    )
    scale_images: PositiveInt = Field(
        5000, description="training images that give centre and scale of the decoder's input"
    )


@REGULARIZERS.add("diffusability.tokenizers.python_object:build_python_regularizer")
class PythonRegularizer(Regularizer, PythonObject):
    """A regularizer of the user's own package; see `tokenizers/python_object.py`."""

    balanced = True

    method: Literal["python"] = Field(description="a regularizer of your own package")
    encoder: EncoderName | None = Field(
        None, description="encoder whose feature map the regularizer is given"
    )


RegularizerSpec = Annotated[Regularizer, REGULARIZERS]
