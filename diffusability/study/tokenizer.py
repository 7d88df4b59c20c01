"""Image tokenizers: network, objective (Eq. 12) and the regularizer that sets them apart."""

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from diffusability.study.spec import Probability, Spec, TrainSpec

NAME = r"^[a-z0-9][a-z0-9.+-]*$"
EncoderName = Annotated[str, Field(pattern=NAME, description="an entry of `encoders`")]


class ConvNetwork(Spec):
    """The convolutional autoencoder of LDM/VA-VAE at any size."""

    arch: Literal["conv"]
    factor: Literal[1, 2, 4, 8, 16, 32] = Field(
        16, description="image pixels per latent cell, along one side"
    )
    channels: PositiveInt = Field(32, description="channels of the latent")
    width: PositiveInt = Field(128, description="channels at full resolution")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 1, 2, 2, 4), description="channels at each resolution, in units of `width`"
    )
    encoder_blocks: PositiveInt = Field(2, description="residual blocks a resolution, encoder")
    decoder_blocks: PositiveInt = Field(3, description="residual blocks a resolution, decoder")
    attention: bool = Field(True, description="self-attention at the lowest resolution")

    @model_validator(mode="after")
    def _levels(self) -> "ConvNetwork":
        levels = int(math.log2(self.factor)) + 1
        if len(self.multipliers) != levels:
            raise ValueError(
                f"factor {self.factor} needs {levels} multipliers (one a resolution), "
                f"got {len(self.multipliers)}: {list(self.multipliers)}"
            )
        return self

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return f"conv-f{self.factor}d{self.channels}"


NetworkSpec = ConvNetwork


class ObjectiveSpec(Spec):
    """Eq. 12: L1 + perceptual + adaptive GAN + KL; a weight of zero switches a term off."""

    l1: NonNegativeFloat = Field(1.0, description="weight of |x - x̂|")
    kl: NonNegativeFloat = Field(1e-6, description="weight of KL(posterior, N(0, I))")
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="over the pixels of an image; the batch is always averaged"
    )


class Baseline(Spec):
    """No regularizer."""

    method: Literal["baseline"]


class McosMdms(Spec):
    """VA-VAE's alignment: marginal cosine plus marginal distance-matrix similarity."""

    method: Literal["mcos+mdms"]
    encoder: EncoderName
    weight: NonNegativeFloat = Field(0.1, description="before the adaptive factor")
    cosine_margin: float = Field(0.5, ge=0, le=2)
    distance_margin: float = Field(0.25, ge=0, le=2)


class Equivariance(Spec):
    """EQ-VAE: the decoder must undo a transformation made on the latent."""

    method: Literal["eq"]
    operators: tuple[Literal["scale", "flip", "rotation"], ...] = Field(("scale",), min_length=1)
    probability: Probability = Field(0.5, description="of a step with a transformed latent")
    prior_probability: Probability = Field(
        0.25, description="of a plainly autoencoded downscaled image, among the other steps"
    )


class LocalCorrelation(Spec):
    """SSVAE's local correlation regularization."""

    method: Literal["lcr"]
    weight: NonNegativeFloat = Field(0.02, description="w of Table 1")
    threshold: float = Field(0.75, ge=-1, le=1, description="th of Table 1")
    factor: NonNegativeFloat = Field(0.1, description="inner factor of the authors' code")


RegularizerSpec = Annotated[
    Baseline | McosMdms | Equivariance | LocalCorrelation, Field(discriminator="method")
]


class TokenizerSpec(Spec):
    """One tokenizer, resolved: base, entry and defaults merged."""

    network: NetworkSpec
    objective: ObjectiveSpec = ObjectiveSpec()
    regularizer: RegularizerSpec
    train: TrainSpec

    @property
    def cluster(self) -> str:
        """The regularizer family, as in Table 1 of the paper."""
        return self.regularizer.method

    @property
    def encoder(self) -> str | None:
        """Name of the alignment encoder, if the regularizer needs one."""
        return getattr(self.regularizer, "encoder", None)


class EncodingSpec(Spec):
    """How the latents of a tokenizer are cached."""

    shard: PositiveInt = Field(1024, description="images per shard file")
    batch: PositiveInt = Field(256, description="images encoded at a time")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the stored moments")


SeedList = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
