"""A velocity network together with the scale of the latents that it was trained on."""

import torch
from torch import Tensor, nn

from diffusability.diffusion.transformer import LatentTransformer


class LatentDiffusion(nn.Module):
    """Velocity network on per-channel z-scored latents; the z-score travels with the weights.

    Applying another normalisation than the one of training is a classic, silent mistake; here
    there is no other.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: LatentTransformer) -> None:
        """Wrap a network; the normalisation is set by `set_normalisation` or by loading."""
        super().__init__()
        self.network = network
        channels = network.latent_channels
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def set_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and standard deviation, (C,) each, in latent units."""
        self.mean.copy_(mean[:, None, None])
        self.std.copy_(std[:, None, None])

    def normalise(self, latents: Tensor) -> Tensor:
        """Map (B, C, H, W) latents to the network's units."""
        return (latents - self.mean) / self.std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Map (B, C, H, W) in the network's units back to latents."""
        return latents * self.std + self.mean

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity (B, C, H, W) at x, both in the network's units."""
        return self.network(x, t, y)
