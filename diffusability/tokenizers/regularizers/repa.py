"""repa: representation alignment of the latent through a small network."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.tokenizers.posterior import Posterior
from diffusability.tokenizers.regularizers.alignment import latent_features, tokens
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer


class RepresentationAlignment(Regularizer[None]):
    """1 - mean_i cos(h(z_i), f_i), with h a three-layer SiLU network.

    Yu et al., Representation Alignment for Generation (REPA, arXiv 2410.06940), applied to
    the latents of a tokenizer. The study's paper names the method only; the adaptive factor and
    weight are those of VA-VAE, since a fixed weight is lost beside a summed reconstruction.
    """

    def __init__(
        self,
        latent_channels: int,
        feature_channels: int,
        hidden: int = 2048,
        weight: float = 0.1,
        adaptive: bool = True,
    ) -> None:
        """Build the network h on the meta device; `initialise` fills it.

        Args:
            latent_channels: d.
            feature_channels: D, of the frozen encoder.
            hidden: width of both hidden layers.
            weight: in front of the adaptive factor.
            adaptive: whether to balance against the reconstruction; without, 0.1 to 0.5 suits
                the "mean" reduction.
        """
        super().__init__()
        self.weight = weight
        self.adaptive = adaptive
        with torch.device("meta"):
            self.projection = nn.Sequential(
                nn.Linear(latent_channels, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, feature_channels),
            )

    def penalties(
        self, posterior: Posterior, latents: Tensor, features: Tensor | None
    ) -> list[Penalty]:
        """Return the loss on the posterior sample; see `Regularizer.penalties`."""
        if not self.weight:
            return []
        target = tokens(latent_features(features, latents, "repa"))  # (B, N, D)
        projected = self.projection(tokens(latents))  # (B, N, D)
        loss = 1.0 - functional.cosine_similarity(projected, target, dim=2).mean()
        return [Penalty("repa", loss, self.weight, self.adaptive)]
