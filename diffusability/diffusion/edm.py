"""EDM: preconditioned denoising, its noise levels in training and its loss (arXiv 2206.00364)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusability.study.entries.backbone import EDMTraining

# (point (B, ...), level (B,), labels (B,) or None) -> (B, ...); D(y; sigma) or F(c_in y; c_noise)
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def precondition(
    network: Network, y: Tensor, sigma: Tensor, labels: Tensor | None, sigma_data: float
) -> Tensor:
    """Return D(y; sigma) = c_skip y + c_out F(c_in y, ln(sigma) / 4) of a network F.

    Inputs and targets of F have unit variance at every level. With F = 0, D is the exact denoiser
    of N(0, sigma_data^2 I).

    Args:
        network: F, maps (B, ...), (B,) noise conditions and labels to (B, ...).
        y: (B, ...) noisy data.
        sigma: (B,) noise standard deviations, above 0.
        labels: (B,), or None where the network takes none.
        sigma_data: standard deviation of the data.
    """
    s = sigma.view(-1, *[1] * (y.ndim - 1))
    total = s.square() + sigma_data**2
    inner = network(y / total.sqrt(), sigma.log() / 4, labels)
    return (sigma_data**2 * y + s * sigma_data * total.sqrt() * inner) / total


class PreconditionedDenoiser(nn.Module):
    """A network F with EDM's preconditioning.

    Args:
        network: F, see `precondition`.
        sigma_data: standard deviation of the data.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(self, y: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoise y (B, ...) of noise standard deviation sigma (B,); same shape."""
        return precondition(self.network, y, sigma, labels, self.sigma_data)


def training_sigma(count: int, generator: torch.Generator, options: EDMTraining) -> Tensor:
    """Return (count,) float32 noise levels, ln sigma ~ N(log_sigma_mean, log_sigma_std^2)."""
    z = torch.randn(count, generator=generator, device=generator.device)
    return (options.log_sigma_mean + options.log_sigma_std * z).exp()


def denoising_loss(
    denoise: Network,
    x: Tensor,
    sigma: Tensor,
    noise: Tensor,
    sigma_data: float,
    labels: Tensor | None = None,
) -> Tensor:
    """Return EDM's loss: the squared error weighted to (F's) unit scale at every level.

    Args:
        denoise: D, a preconditioned denoiser.
        x: (B, ...) data.
        sigma: (B,) noise standard deviations.
        noise: (B, ...) standard normal.
        sigma_data: standard deviation of the data, as in the preconditioning.
        labels: (B,) labels given to D, or None.

    Returns:
        Scalar, mean over data and entries; LOWER is better.
    """
    s = sigma.view(-1, *[1] * (x.ndim - 1))
    weight = (s.square() + sigma_data**2) / (s * sigma_data).square()
    return (weight * (denoise(x + s * noise, sigma, labels) - x).square()).mean()
