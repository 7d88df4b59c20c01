"""The hooks of a regularizer in a training step; by default they do nothing.

Their order in a step: `draw`, `prepare_images`, `encoder_mask`, encode, sample, `transform`,
decode, `penalties`. Only `draw` is random, so that one choice can steer several hooks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from diffusability.nn.initialisation import SeededModule
from diffusability.study.entries import regularizer as study
from diffusability.tokenizers.posterior import Posterior

PENALTY_MAXIMUM = 1e8
Options = TypeVar("Options", bound=study.Regularizer)
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Penalty:
    """A term that a regularizer adds to the objective.

    Attributes:
        name: of the term in the loss curves.
        loss: scalar, lower is better.
        weight: multiplies the adaptive factor.
        adaptive: whether the loss is balanced against the reconstruction at the encoder's last
            layer.
        maximum: upper bound of the adaptive factor.
        parts: named scalars that are logged with the loss.
    """

    name: str
    loss: Tensor
    weight: float
    adaptive: bool = True
    maximum: float = PENALTY_MAXIMUM
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Regularizer(SeededModule, Generic[Options, Choice]):
    """What a training step adds to Eq. 12; this class itself is the baseline.

    Trainable parts (a projection, a mask token) are parameters of the module, built on the meta
    device and filled by `initialise`; the autoencoder's optimizer trains them.
    """

    def __init__(self, options: Options, latent_channels: int, feature_channels: int = 0) -> None:
        """Store the options; every regularizer is built from these three arguments.

        Args:
            options: the entry's regularizer.
            latent_channels: channels d of the tokenizer's latent.
            feature_channels: channels D of the encoder's features, or 0 without an encoder.
        """
        super().__init__()
        self.options = options

    def draw(self, grid: tuple[int, int], batch: int, generator: torch.Generator) -> Choice | None:
        """Return the random choices of one step, or None for a plain step.

        Args:
            grid: height and width of the latents of the batch's images.
            batch: number of images.
            generator: source of every random number.
        """
        return None

    def prepare_images(self, images: Tensor, choice: Choice | None) -> Tensor:
        """Return the images (B, C, H', W') to be autoencoded instead of images (B, C, H, W)."""
        return images

    def encoder_mask(self, images: Tensor, choice: Choice | None) -> Tensor | None:
        """Return a bool mask (B, h, w) of tokens hidden from the encoder, on the images' device."""
        return None

    def transform(
        self, latents: Tensor, target: Tensor, choice: Choice | None
    ) -> tuple[Tensor, Tensor]:
        """Return the latents to decode and the target of their reconstruction.

        Args:
            latents: (B, d, h, w), posterior samples.
            target: (B, C, H, W), the prepared images.
            choice: of this step.
        """
        return latents, target

    def penalties(
        self, posterior: Posterior, latents: Tensor, features: Tensor | None
    ) -> list[Penalty]:
        """Return the terms added to the objective; terms of weight zero are omitted.

        Args:
            posterior: of the prepared images.
            latents: (B, d, h, w), posterior samples before `transform`.
            features: (B, D, h', w') of a frozen encoder, or None.
        """
        return []
