"""Alignment of latents with the features of a frozen vision encoder, token by token."""

from torch import Tensor
from torch.nn import functional

from diffusability.errors import TrainingError


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
