"""Denoisers D(y; v) = E[x | x + sqrt(v) z] from networks of every parameterisation.

The estimators of this package call only D, so a velocity network and an EDM denoiser of the same
distribution have the same Fisher information. All conversions are exact.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.fisher.information import alpha_bar_of_variance, flow_time_of_variance

# (point (B, ...), noise level (B,), labels (B,) or None) -> (B, ...)
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Denoiser(Protocol):
    """The posterior mean at any noise variance."""

    def __call__(self, y: Tensor, v: float, labels: Tensor | None = None) -> Tensor:
        """Return D(y; v) of y (B, ...) in its shape; labels (B,) for a conditional network."""
        ...


def _level(y: Tensor, value: float) -> Tensor:
    return torch.full((len(y),), value, dtype=y.dtype, device=y.device)


def from_edm(network: Network) -> Denoiser:
    """Return the denoiser of a network (y, sigma, labels) -> D, preconditioning included."""

    def denoise(y: Tensor, v: float, labels: Tensor | None = None) -> Tensor:
        return network(y, _level(y, math.sqrt(v)), labels)

    return denoise


def from_noise_prediction(network: Network) -> Denoiser:
    """Return the denoiser of a variance-preserving noise predictor.

    x_t = sqrt(abar) y with abar = 1 / (1 + v), and D = y - sqrt(v) eps(x_t).

    Args:
        network: (x_t, abar, labels) -> predicted standard noise.
    """

    def denoise(y: Tensor, v: float, labels: Tensor | None = None) -> Tensor:
        alpha_bar = alpha_bar_of_variance(v)
        noise = network(math.sqrt(alpha_bar) * y, _level(y, alpha_bar), labels)
        return y - math.sqrt(v) * noise

    return denoise


def from_velocity(network: Network) -> Denoiser:
    """Return the denoiser of a flow-matching network on x_t = t x + (1 - t) z.

    With sigma = sqrt(v), t = 1 / (1 + sigma) and x_t = t y, D = x_t + (1 - t) u(x_t, t).

    Args:
        network: (x_t, t, labels) -> velocity u = E[x - z | x_t].
    """

    def denoise(y: Tensor, v: float, labels: Tensor | None = None) -> Tensor:
        t = flow_time_of_variance(v)
        point = t * y
        return point + (1 - t) * network(point, _level(y, t), labels)

    return denoise


def from_trained(model: LatentDiffusion | LatentDenoiser) -> Denoiser:
    """Return the denoiser of a trained backbone, for any process.

    It takes the network's units, latents z-scored per channel: pass data through
    `model.normalise`. Without labels it uses the null class.

    Args:
        model: from `diffusability.diffusion.load.load_diffusion`.
    """
    return from_edm(model) if isinstance(model, LatentDenoiser) else from_velocity(model)
