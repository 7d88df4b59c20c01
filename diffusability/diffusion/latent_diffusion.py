"""A diffusion network together with the scale of the latents that it was trained on."""

import torch
from torch import Tensor, nn

from diffusability.diffusion.edm import precondition
from diffusability.diffusion.network import LatentNetwork


class NormalisedNetwork(nn.Module):
    """A network on per-channel z-scored latents, saved together with the z-score's statistics.

    This excludes a common silent mistake: sampling with another normalisation than in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: LatentNetwork) -> None:
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

    def null_labels(self, count: int) -> Tensor:
        """Return (count,) int64 labels of the null class (unconditional)."""
        null = self.network.num_classes
        return torch.full((count,), null, dtype=torch.int64, device=self.mean.device)


class LatentDiffusion(NormalisedNetwork):
    """The velocity of flow matching."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the velocity (B, C, H, W) at x, both in the network's units.

        Args:
            x: (B, C, H, W) on the linear path.
            t: (B,) time in [0, 1], 0 noise and 1 data.
            y: (B,) int64 labels; None for the null class.
        """
        return self.network(x, t, self.null_labels(len(x)) if y is None else y)


class LatentDenoiser(NormalisedNetwork):
    """EDM's posterior mean D(y; sigma), with a preconditioned network.

    Args:
        network: F; it starts at zero, so D starts as the denoiser of N(0, sigma_data^2 I).
        sigma_data: standard deviation of the latents in the network's units.
    """

    def __init__(self, network: LatentNetwork, sigma_data: float) -> None:
        super().__init__(network)
        self.sigma_data = sigma_data

    def forward(self, y: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return D (B, C, H, W) at y, both in the network's units.

        Args:
            y: (B, C, H, W) latents with noise.
            sigma: (B,) noise standard deviations, above 0.
            labels: (B,) int64 labels; None for the null class.
        """
        labels = self.null_labels(len(y)) if labels is None else labels
        return precondition(self.network, y, sigma, labels, self.sigma_data)
