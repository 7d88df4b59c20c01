"""Tokenizers that a study trains: network, objective (Eq. 12) and regularizer."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from diffusability.study.core.names import EncoderName
from diffusability.study.core.spec import Spec, TrainSpec, is_none, is_zero
from diffusability.study.entries.regularizer import RegularizerSpec
from diffusability.study.entries.tokenizer_entry import NetworkEntry


class ObjectiveSpec(Spec):
    """Eq. 12: L1 + perceptual + adaptive GAN + KL; a weight of zero switches a term off.

    The perceptual and the GAN loss are off unless a study asks for them: the first needs
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
    gan_start: NonNegativeInt = Field(2500, description="first step of the GAN loss")
    gan_width: PositiveInt = Field(64, description="channels of the discriminator's first layer")
    gan_layers: PositiveInt = Field(3, description="stride-2 layers of the discriminator")
    kl: NonNegativeFloat = Field(1e-6, description="weight of KL(posterior, N(0, I))")
    kl_warmup: NonNegativeInt = Field(
        0, exclude_if=is_zero, description="steps over which the weight of the KL grows from zero"
    )
    kl_balance: bool = Field(
        False,
        exclude_if=is_zero,
        description="arch hierarchical: while that weight grows, levels with much of the KL get a "
        "larger weight, as in NVAE, so that the coarse ones do not collapse",
    )
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="over the pixels of an image; the batch is always averaged"
    )

    @property
    def gan_side(self) -> int:
        """Side in pixels of the smallest images that the discriminator takes."""
        return int(3 * 2**self.gan_layers)

    @model_validator(mode="after")
    def _complete(self) -> "ObjectiveSpec":
        if bool(self.perceptual) != (self.perceptual_encoder is not None):
            raise ValueError("perceptual and perceptual_encoder are given together or not at all")
        if not (self.l1 or self.mse or self.perceptual):
            raise ValueError("l1, mse and perceptual are all zero, so nothing is reconstructed")
        return self


class TokenizerTraining(TrainSpec):
    """How a tokenizer is optimised, and whether its batch is cut into parts.

    A part has adaptive weights, batch statistics and random numbers of its own, and the gradients
    of all parts are averaged, as in the data-parallel training of VA-VAE (8 images per GPU). So the
    size of a part changes what is computed; which process computes it, and when, does not.
    """

    part: PositiveInt | None = Field(
        None,
        exclude_if=is_none,
        description="images per part of a batch; adaptive weights, the discriminator's batch norms "
        "and random numbers are those of a part. none: the whole batch is one part",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_part(cls, data: Any) -> Any:
        """Leave out a part that is the whole batch: naming it changes nothing."""
        if not isinstance(data, dict) or "part" not in data:
            return data
        batch = data.get("batch", cls.model_fields["batch"].default)
        return data | {"part": None} if data["part"] == batch else data


class TokenizerSpec(NetworkEntry):
    """One tokenizer, resolved: base, entry and defaults merged."""

    needs_images = True

    objective: ObjectiveSpec = ObjectiveSpec()
    regularizer: RegularizerSpec
    train: TokenizerTraining
    gpus: PositiveInt = Field(
        1,
        exclude=True,
        description="processes that share the parts of every batch, one GPU each; execution, in no "
        "fingerprint",
    )

    def fingerprinted(self) -> dict[str, Any]:
        """Also without the name of the encoder that a perceptual distance compares features of."""
        options = self.canonical()
        options["regularizer"].pop("encoder", None)
        options["objective"].pop("perceptual_encoder")
        return options

    def misfits(self, size: int, image_channels: int) -> Iterator[tuple[str, str]]:
        """Also what does not fit the latent grid, and a discriminator too deep for the images."""
        wrong = list(super().misfits(size, image_channels))
        yield from wrong
        if wrong:
            return
        yield from self.regularizer.misfits(size // self.factor)
        smallest = self.smallest_image(size)
        if self.objective.gan and smallest < self.objective.gan_side:
            layers = (smallest // 3).bit_length() - 1  # 3 * 2^layers pixels, or fewer than one
            yield (
                "objective.gan_layers",
                f"{self.objective.gan_layers} layers of stride 2 need images of "
                f"{self.objective.gan_side} pixels a side, and the smallest of this training have "
                f"{smallest}; set " + (f"it to {layers}" if layers > 0 else "objective.gan to 0"),
            )

    def smallest_image(self, size: int) -> int:
        """Return the side in pixels of the smallest images that the training decodes."""
        return self.factor * self.regularizer.smallest_grid(size // self.factor)

    @model_validator(mode="after")
    def _gan_begins(self) -> "TokenizerSpec":
        objective, steps = self.objective, self.train.steps
        if objective.gan and objective.gan_start >= steps:
            raise ValueError(
                f"objective.gan_start: the GAN would begin at step {objective.gan_start}, and "
                f"train.steps is {steps}; let it begin earlier, or set objective.gan to 0"
            )
        return self

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
                "gradients of the whole batch, so a tokenizer's loss is not a sum over images. "
                "train.part cuts the batch into parts with weights of their own"
            )
        part = self.train.part
        if part is None and self.gpus > 1:
            raise ValueError(
                f"gpus: {self.gpus} processes share the parts of a batch, but the batch of "
                f"{self.train.batch} is one part; set train.part, for example to 8 images"
            )
        if part is not None and self.train.batch % (part * self.gpus):
            raise ValueError(
                f"train.batch {self.train.batch} cannot be cut into parts of {part} images, "
                f"equally many for each of {self.gpus} gpus"
            )
        if part is not None and self.regularizer.method == "gpe":
            raise ValueError("train.part: method gpe compares all pairs of a batch; leave it out")
        if self.train.activation_checkpointing and self.network.arch == "vector":
            raise ValueError(
                "train.activation_checkpointing must be false: arch vector has no blocks to "
                "compute again"
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
    def encoders(self) -> dict[str, str]:
        """Names of the encoders that its training looks at, by role."""
        named = {
            "encoder": getattr(self.regularizer, "encoder", None),
            "perceptual": self.objective.perceptual_encoder,
        }
        return {role: name for role, name in named.items() if name is not None}
