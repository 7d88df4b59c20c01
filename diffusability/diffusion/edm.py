"""EDM: preconditioned denoising, its noise levels and the Heun sampler (arXiv 2206.00364)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

SIGMA_DATA = 0.5
LOG_SIGMA = (-1.2, 1.2)  # mean and standard deviation of ln sigma in training


class PreconditionedDenoiser(nn.Module):
    """D(y; sigma) = c_skip y + c_out F(c_in y, c_noise).

    With F = 0 it is the exact denoiser of N(0, sigma_data^2 I).

    Args:
        network: F, maps (B, ...), (B,) noise conditions and labels (or None) to (B, ...).
        sigma_data: standard deviation of the data.
    """

    def __init__(self, network: nn.Module, sigma_data: float = SIGMA_DATA) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(self, y: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Denoise y (B, ...) of noise standard deviation sigma (B,); same shape."""
        s = sigma.view(-1, *[1] * (y.ndim - 1))
        total = s.square() + self.sigma_data**2
        inner = self.network(y / total.sqrt(), sigma.log() / 4, labels)
        return (self.sigma_data**2 * y + s * self.sigma_data * total.sqrt() * inner) / total


def training_sigma(
    count: int, generator: torch.Generator, *, mean: float = LOG_SIGMA[0], std: float = LOG_SIGMA[1]
) -> Tensor:
    """Return (count,) float32 training noise levels, ln sigma ~ N(mean, std^2)."""
    z = torch.randn(count, generator=generator, device=generator.device)
    return (mean + std * z).exp()


def denoising_loss(
    model: PreconditionedDenoiser, x: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Return EDM's loss: the squared error weighted to (F's) unit scale at every level.

    Args:
        model: the preconditioned denoiser.
        x: (B, ...) data.
        sigma: (B,) noise standard deviations.
        noise: (B, ...) standard normal.

    Returns:
        Scalar, mean over data and entries; LOWER is better.
    """
    s = sigma.view(-1, *[1] * (x.ndim - 1))
    weight = (s.square() + model.sigma_data**2) / (s * model.sigma_data).square()
    return (weight * (model(x + s * noise, sigma) - x).square()).mean()


def sigma_grid(steps: int, *, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Tensor:
    """Return steps + 1 noise levels, from high to low, evenly spaced in sigma^(1/rho), then 0.

    Args:
        steps: at least 2.
        low, high: smallest positive and largest noise standard deviation.
        rho: the larger, the more of the levels are small.

    Returns:
        (steps + 1,) float64.
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    start, end = high ** (1 / rho), low ** (1 / rho)
    levels = (start + ramp * (end - start)) ** rho
    levels[0], levels[-1] = high, low  # exactly, not to rounding
    return torch.cat((levels, levels.new_zeros(1)))


def heun_sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    sigmas: Tensor,
    *,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Integrate dy/dsigma = (y - D(y; sigma)) / sigma with Heun's second-order method.

    Args:
        denoise: D, maps (B, ...) and sigma (B,) to (B, ...).
        noise: (B, ...) standard normal.
        sigmas: (K + 1,) decreasing levels that end in 0; the last step is Euler's.
        churn: total fresh noise; 0 integrates the deterministic equation.
        churn_range: levels between which fresh noise is added.
        churn_noise: its standard deviation, relative.
        generator: of fresh noise; needed where churn is not 0.

    Returns:
        (B, ...) samples in the dtype of the noise.
    """
    steps = len(sigmas) - 1
    y = noise * float(sigmas[0])
    for now, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        level = now
        if churn > 0 and churn_range[0] <= now <= churn_range[1]:
            level = now * (1 + min(churn / steps, math.sqrt(2) - 1))
            fresh = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
            y = y + math.sqrt(level**2 - now**2) * churn_noise * fresh
        slope = (y - denoise(y, y.new_full((len(y),), level))) / level
        moved = y + (following - level) * slope
        if following > 0:
            ahead = (moved - denoise(moved, y.new_full((len(y),), following))) / following
            moved = y + (following - level) * (slope + ahead) / 2
        y = moved
    return y
