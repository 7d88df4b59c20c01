"""repa, mcos, mdms and mcos+mdms: latents aligned with the features of a frozen vision encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.errors import TrainingError
from diffusability.study.entries.regularizer import Mcos, McosMdms, Mdms, Repa
from diffusability.tokenizers.posterior import Posterior
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer


def latent_features(features: Tensor | None, latents: Tensor, method: str) -> Tensor:
    """Return encoder features on the grid of the latents, resized bilinearly where they differ.

    Args:
        features: (B, D, h', w') of a frozen encoder.
        latents: (B, d, h, w).
        method: name of the regularizer, for the message.

    Returns:
        (B, D, h, w), detached, in the dtype of the latents.

    Raises:
        TrainingError: if there are no features, or of another batch.
    """
    if features is None or len(features) != len(latents):
        given = "none were given" if features is None else f"those of {len(features)} were given"
        raise TrainingError(
            f"{method}: features of {len(latents)} images are needed and {given}; "
            "pass the encoder's features of this batch"
        )
    features = features.detach().to(latents.dtype)
    if features.shape[2:] == latents.shape[2:]:
        return features
    size = (latents.shape[2], latents.shape[3])
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)


def tokens(grid: Tensor) -> Tensor:
    """Return a grid (B, C, h, w) as tokens (B, h·w, C), row-major."""
    return grid.flatten(2).transpose(1, 2)


def cosine_matrix(grid: Tensor) -> Tensor:
    """Return the cosine similarity of every pair of positions inside each image.

    Args:
        grid: (B, C, h, w).

    Returns:
        (B, h·w, h·w), in [-1, 1].
    """
    unit = functional.normalize(tokens(grid), dim=2)  # (B, N, C)
    return unit @ unit.transpose(1, 2)


def marginal_cosine(projected: Tensor, features: Tensor, margin: float) -> Tensor:
    """Return mean_i relu(1 - m₁ - cos(z'_i, f_i)).

    Yao et al., Reconstruction vs. Generation (VA-VAE, arXiv 2501.01423), marginal cosine
    similarity loss.

    Args:
        projected: z' = W z, the projected latents (B, D, h, w).
        features: f, (B, D, h, w).
        margin: m₁; positions with a cosine above 1 - m₁ have no loss.

    Returns:
        Scalar in [0, 2 - m₁]; lower is better aligned.
    """
    cosine = functional.cosine_similarity(projected, features, dim=1)  # (B, h, w)
    return functional.relu(1.0 - margin - cosine).mean()


def marginal_distance(projected: Tensor, features: Tensor, margin: float) -> Tensor:
    """Return mean_ij relu(|cos(z'_i, z'_j) - cos(f_i, f_j)| - m₂), over all pairs of an image.

    Yao et al., Reconstruction vs. Generation (VA-VAE, arXiv 2501.01423), marginal distance matrix
    similarity loss. As in the authors' code both matrices use the projected latent z' = W z, and
    the mean runs over all N² pairs, the diagonal included.

    Args:
        projected: z' = W z, (B, D, h, w).
        features: f, (B, D, h, w).
        margin: m₂; pairs that differ by less have no loss.

    Returns:
        Scalar in [0, 2 - m₂]; lower is better aligned.
    """
    difference = cosine_matrix(projected) - cosine_matrix(features)  # (B, N, N)
    return functional.relu(difference.abs() - margin).mean()


class VisionAlignment(Regularizer[Mcos | Mdms | McosMdms, None]):
    """w · λ∇ · (mcos + mdms), or one of them: one projection W, one adaptive factor for the sum.

    The vision-foundation-model loss of VA-VAE (Yao et al., arXiv 2501.01423); W is a 1x1
    convolution without bias.
    """

    def __init__(
        self, options: Mcos | Mdms | McosMdms, latent_channels: int, feature_channels: int
    ) -> None:
        """Build the projection on the meta device; see `Regularizer`."""
        super().__init__(options, latent_channels, feature_channels)
        with torch.device("meta"):
            self.projection = nn.Conv2d(latent_channels, feature_channels, 1, bias=False)

    def penalties(
        self, posterior: Posterior, latents: Tensor, features: Tensor | None
    ) -> list[Penalty]:
        """Return the sum of the losses on the posterior sample; see `Regularizer.penalties`."""
        options = self.options
        if not options.weight:
            return []
        target = latent_features(features, latents, options.method)  # (B, D, h, w)
        projected = self.projection(latents)  # (B, D, h, w)
        parts = {}
        if isinstance(options, Mcos | McosMdms):
            parts["mcos"] = marginal_cosine(projected, target, options.cosine_margin)
        if isinstance(options, Mdms | McosMdms):
            parts["mdms"] = marginal_distance(projected, target, options.distance_margin)
        total = torch.stack(list(parts.values())).sum()
        return [Penalty(options.method, total, options.weight, parts=parts)]


class RepresentationAlignment(Regularizer[Repa, None]):
    """1 - mean_i cos(h(z_i), f_i), with h a three-layer SiLU network.

    Yu et al., Representation Alignment for Generation (REPA, arXiv 2410.06940), applied to
    the latents of a tokenizer. The study's paper only names the method. The adaptive factor and
    weight are those of VA-VAE, since a fixed weight is negligible next to a summed reconstruction.
    """

    def __init__(self, options: Repa, latent_channels: int, feature_channels: int) -> None:
        """Build the network h on the meta device; see `Regularizer`."""
        super().__init__(options, latent_channels, feature_channels)
        hidden = options.hidden
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
        if not self.options.weight:
            return []
        target = tokens(latent_features(features, latents, "repa"))  # (B, N, D)
        projected = self.projection(tokens(latents))  # (B, N, D)
        loss = 1.0 - functional.cosine_similarity(projected, target, dim=2).mean()
        return [Penalty("repa", loss, self.options.weight)]
