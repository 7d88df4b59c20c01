"""mcos, mdms and mcos+mdms: the vision-foundation-model loss of VA-VAE."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from diffusability.tokenizers.posterior import Posterior
from diffusability.tokenizers.regularizers.alignment import latent_features
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer


class AlignmentLoss(Protocol):
    """A loss between projected latents and features, both (B, D, h, w)."""

    @property
    def name(self) -> str:
        """Name of the term in the loss curves."""

    def __call__(self, projected: Tensor, features: Tensor) -> Tensor:
        """Return the loss, lower is better aligned."""


class VisionAlignment(Regularizer[None]):
    """w · λ∇ · Σ losses(W z, f), one projection and one adaptive factor for the sum.

    Yao et al., Reconstruction vs. Generation (VA-VAE, arXiv 2501.01423). The losses are
    `MarginalCosine`, `MarginalDistance`, or both.
    """

    def __init__(
        self,
        latent_channels: int,
        feature_channels: int,
        losses: Sequence[AlignmentLoss],
        weight: float = 0.1,
    ) -> None:
        """Build the projection W on the meta device; `initialise` fills it.

        Args:
            latent_channels: d.
            feature_channels: D, of the frozen encoder.
            losses: the terms that are added up.
            weight: w, in front of the adaptive factor.
        """
        super().__init__()
        self.losses = tuple(losses)
        self.weight = weight
        with torch.device("meta"):
            self.projection = nn.Conv2d(latent_channels, feature_channels, 1, bias=False)

    def penalties(
        self, posterior: Posterior, latents: Tensor, features: Tensor | None
    ) -> list[Penalty]:
        """Return the sum of the losses on the posterior sample; see `Regularizer.penalties`."""
        name = "+".join(loss.name for loss in self.losses)
        if not self.weight:
            return []
        target = latent_features(features, latents, name)  # (B, D, h, w)
        projected = self.projection(latents)  # (B, D, h, w)
        parts = {loss.name: loss(projected, target) for loss in self.losses}
        return [Penalty(name, torch.stack(list(parts.values())).sum(), self.weight, parts=parts)]
