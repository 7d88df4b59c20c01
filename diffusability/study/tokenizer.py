"""Image tokenizers: network, objective (Eq. 12) and the regularizer that sets them apart."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from diffusability.study.linear_tokenizer import LinearTokenizer
from diffusability.study.names import EncoderName, Name
from diffusability.study.network import HierarchicalNetwork, NetworkSpec
from diffusability.study.regularizer import RegularizerSpec
from diffusability.study.spec import Need, Place, Spec, TrainSpec, is_zero, name_content


class ObjectiveSpec(Spec):
    """Eq. 12: L1 + perceptual + adaptive GAN + KL; a weight of zero switches a term off.

    The perceptual and the adversarial term are off unless a study asks for them: the first needs
    a network, and the second is unstable in short runs.
    """

    l1: NonNegativeFloat = Field(1.0, description="weight of |x - x̂|")
    mse: NonNegativeFloat = Field(
        0.0, exclude_if=is_zero, description="weight of (x - x̂)^2, beside or in place of l1"
    )
    perceptual: NonNegativeFloat = Field(0.0, description="weight of the perceptual distance")
    perceptual_encoder: EncoderName | None = Field(
        None, description="encoder whose features the perceptual distance compares"
    )
    gan: NonNegativeFloat = Field(0.0, description="weight of the GAN, before its adaptive factor")
    gan_start: NonNegativeInt = Field(2500, description="first step of the adversarial game")
    gan_width: PositiveInt = Field(64, description="channels of the discriminator's first layer")
    gan_layers: PositiveInt = Field(3, description="stride-2 layers of the discriminator")
    kl: NonNegativeFloat = Field(1e-6, description="weight of KL(posterior, N(0, I))")
    kl_warmup: NonNegativeInt = Field(
        0, exclude_if=is_zero, description="steps over which the weight of the KL grows from zero"
    )
    kl_balance: bool = Field(
        False,
        exclude_if=is_zero,
        description="arch hierarchical: while that weight grows, levels that hold much of the KL "
        "bear more of it, as NVAE's, lest the coarse ones collapse",
    )
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="over the pixels of an image; the batch is always averaged"
    )

    @model_validator(mode="after")
    def _complete(self) -> "ObjectiveSpec":
        if bool(self.perceptual) != (self.perceptual_encoder is not None):
            raise ValueError("perceptual and perceptual_encoder are given together or not at all")
        if not (self.l1 or self.mse or self.perceptual):
            raise ValueError("l1, mse and perceptual are all zero, so nothing is reconstructed")
        return self


class TokenizerSpec(Spec):
    """One tokenizer, resolved: base, entry and defaults merged."""

    network: NetworkSpec
    objective: ObjectiveSpec = ObjectiveSpec()
    regularizer: RegularizerSpec
    train: TrainSpec

    @model_validator(mode="after")
    def _mask_needs_tokens(self) -> "TokenizerSpec":
        if self.regularizer.method == "mae" and self.network.arch != "vit":
            raise ValueError("method mae hides image tokens, which only arch vit has")
        return self

    @model_validator(mode="after")
    def _method_fits_network(self) -> "TokenizerSpec":
        arch, method = self.network.arch, self.regularizer.method
        fitting = {"vector": ("baseline", "gpe"), "hierarchical": ("baseline",)}
        if arch in fitting and method not in fitting[arch]:
            raise ValueError(
                f"method {method} does not fit arch {arch}, only {' or '.join(fitting[arch])} does"
            )
        if method == "gpe" and arch != "vector":
            raise ValueError("method gpe trains an encoder to vectors, which only arch vector is")
        if method == "gpe" and self.train.batch < 2:
            raise ValueError("method gpe compares pairs of a batch, so train.batch is at least 2")
        if self.objective.kl_balance and (arch != "hierarchical" or not self.objective.kl_warmup):
            raise ValueError(
                "objective.kl_balance weighs the levels of arch hierarchical during "
                "objective.kl_warmup steps; it needs both"
            )
        plain = not (self.objective.perceptual or self.objective.gan)
        if (method == "gpe" or arch == "hierarchical") and not plain:
            raise ValueError(
                f"objective.perceptual and objective.gan have no part in the training of "
                f"{'method gpe' if method == 'gpe' else 'arch hierarchical'}; leave them at zero"
            )
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> "TokenizerSpec":
        if self.train.accumulation > 1:
            raise ValueError(
                "train.accumulation must be 1: the adaptive weights of Eq. 12 are ratios of "
                "gradients of the whole batch, so a tokenizer's loss is no sum over its images"
            )
        if self.train.compile:
            raise ValueError(
                "train.compile must be false: it compiles a forward pass, and a tokenizer is "
                "trained through encode and decode"
            )
        return self

    @property
    def cluster(self) -> str:
        """The regularizer family, as in Table 1 of the paper."""
        return self.regularizer.method

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return self.network.family

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self.network.factor

    @property
    def encoders(self) -> dict[str, str]:
        """Names of the encoders that its training looks at, by role."""
        named = {
            "encoder": getattr(self.regularizer, "encoder", None),
            "perceptual": self.objective.perceptual_encoder,
        }
        return {role: name for role, name in named.items() if name is not None}


class ExternalTokenizer(Spec):
    """A published autoencoder in a local folder: nothing is trained, the weights are copied.

    `factor` and `channels` are stated so that a study can be planned without the folder; they are
    compared with it when it is read.
    """

    source: Literal["diffusers"] = Field(
        description="folder of config.json and safetensors: AutoencoderKL or AutoencoderDC"
    )
    path: Place = Field(description="the folder; not part of the fingerprint")
    content: str = Field(
        description="what the folder holds; part of the fingerprint. By default its last name"
    )
    factor: PositiveInt = Field(description="image pixels per latent cell, along one side")
    channels: PositiveInt = Field(description="channels of the latent")

    @model_validator(mode="before")
    @classmethod
    def _name_content(cls, data: Any) -> Any:
        return name_content(data, "path", "content")

    @property
    def cluster(self) -> str:
        """Not one of the paper's clusters."""
        return "external"

    @property
    def family(self) -> str:
        """Source and latent size."""
        return f"{self.source}-f{self.factor}d{self.channels}"

    @property
    def encoders(self) -> dict[str, str]:
        """None: nothing is trained."""
        return {}

    def needs(self) -> tuple[Need, ...]:
        """The folder."""
        remedy = "set the tokenizer's `path` to a folder with config.json and *.safetensors"
        return (Need(f"autoencoder `{self.content}`", Path(self.path), remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return (self.source,)


class LevelTokenizer(Spec):
    """Another level of a trained hierarchical tokenizer: its weights are copied, not trained."""

    source: Literal["level"]
    of: Name = Field(
        exclude=True, description="tokenizer of arch hierarchical; it enters by its fingerprint"
    )
    network: HierarchicalNetwork = Field(description="that of `of`, with this level's factor")

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self.network.factor

    @property
    def channels(self) -> int:
        """Channels of the latent."""
        return self.network.channels

    @property
    def cluster(self) -> str:
        """That of the tokenizer which it is a level of."""
        return "baseline"

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return self.network.family

    @property
    def encoders(self) -> dict[str, str]:
        """None: hierarchical tokenizers look at none."""
        return {}


TokenizerEntry = TokenizerSpec | ExternalTokenizer | LinearTokenizer | LevelTokenizer


class EncodingSpec(Spec):
    """How the latents of a tokenizer are cached."""

    shard: PositiveInt = Field(1024, description="images per shard file")
    batch: PositiveInt = Field(256, description="images encoded at a time")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the stored moments")
    flip: bool = Field(
        False,
        exclude_if=lambda flip: not flip,
        description="encode the mirrored images too; training draws either with probability 1/2",
    )
