"""Networks of the toy study: tiny-diffusion's residual MLP, also with EDM preconditioning.

Architecture after github.com/tanelp/tiny-diffusion: sinusoidal time, coordinates as sinusoids or
unchanged, three residual layers of 128 units.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusability.diffusion.edm import PreconditionedDenoiser, denoising_loss, training_sigma
from diffusability.errors import MeasurementError
from diffusability.fisher.denoiser import Denoiser, from_edm, from_noise_prediction
from diffusability.nn.initialisation import SeededModule
from diffusability.study.entries.backbone import EDMTraining
from diffusability.study.fisher_toy import DIFFUSION_STEPS, ToyNetwork
from diffusability.training.run import Batch, Losses

EMBEDDING = 128  # features of an embedded scalar
INPUT_SCALE = 25.0  # of coordinates before their sinusoids
NOISE_SCALE = 25.0  # of EDM's noise condition, ln(sigma) / 4, which spans about one unit


def linear_alpha_bars(steps: int, *, low: float = 1e-4, high: float = 0.02) -> Tensor:
    """Return the signal power abar after each step, x_t = sqrt(abar) x + sqrt(1 - abar) z.

    The variance-preserving process with a linear schedule (arXiv 2006.11239).

    Args:
        steps: T.
        low, high: variance added in the first and in the last step.

    Returns:
        (T,) float64, decreasing in (0, 1).
    """
    return torch.cumprod(1 - torch.linspace(low, high, steps, dtype=torch.float64), dim=0)


def sinusoids(x: Tensor, scale: float) -> Tensor:
    """Return sines and cosines of x (...,) at 64 frequencies 10000^(-j/63), (..., 128)."""
    half = EMBEDDING // 2
    power = torch.arange(half, dtype=x.dtype, device=x.device) / (half - 1)
    angle = scale * x[..., None] * torch.exp(-math.log(10_000) * power)  # (..., 64)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class ResidualMLP(SeededModule):
    """Embeddings -> linear, GELU -> residual layers h + GELU(W h) -> linear.

    Args:
        dim: coordinates.
        spec: width, layers and how coordinates enter.
        level_scale: factor of the noise level before its sinusoids.
    """

    def __init__(self, dim: int, spec: ToyNetwork, level_scale: float) -> None:
        super().__init__()
        self.sinusoidal, self.level_scale = spec.inputs == "sinusoidal", level_scale
        features = dim * EMBEDDING if self.sinusoidal else dim
        with torch.device("meta"):
            self.first = nn.Linear(features + EMBEDDING, spec.width)
            self.hidden = nn.ModuleList(
                nn.Linear(spec.width, spec.width) for _ in range(spec.blocks)
            )
            self.last = nn.Linear(spec.width, dim)

    def forward(self, x: Tensor, level: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map x (B, n) at noise level (B,) to (B, n)."""
        inputs = sinusoids(x, INPUT_SCALE).flatten(1) if self.sinusoidal else x
        h = F.gelu(self.first(torch.cat((inputs, sinusoids(level, self.level_scale)), dim=1)))
        for layer in self.hidden:
            h = h + F.gelu(layer(h))
        return self.last(h)


class TinyDiffusion(nn.Module):
    """A noise predictor on the 50 steps of a linear schedule.

    Args:
        dim: coordinates.
        spec: of the network.
    """

    alpha_bars: Tensor

    def __init__(self, dim: int, spec: ToyNetwork) -> None:
        super().__init__()
        self.network = ResidualMLP(dim, spec, level_scale=1.0)
        self.register_buffer("alpha_bars", linear_alpha_bars(DIFFUSION_STEPS))

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the predicted noise at random steps, x (B, n)."""
        step = torch.randint(DIFFUSION_STEPS, (len(x),), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        signal = self.alpha_bars[step].to(x.dtype)[:, None]
        point = signal.sqrt() * x + (1 - signal).sqrt() * noise
        return F.mse_loss(self.network(point, step.to(x.dtype)), noise)

    def denoiser(self) -> Denoiser:
        """Return D(y; v) at the noise variances of the schedule; others raise an error."""

        def predict(x: Tensor, alpha_bar: Tensor, labels: Tensor | None) -> Tensor:
            gap = (self.alpha_bars - alpha_bar[0]).abs()
            step = int(gap.argmin())
            if float(gap[step]) > 1e-9:
                raise MeasurementError(
                    f"abar = {float(alpha_bar[0]):.6g} is not one of the {DIFFUSION_STEPS} steps "
                    "that this network was trained on"
                )
            return self.network(x, torch.full_like(alpha_bar, step), labels)

        return from_noise_prediction(predict)


class EDMNetwork(nn.Module):
    """The residual MLP with EDM's preconditioning.

    Args:
        dim: coordinates.
        spec: of the network.
        sigma_data: standard deviation of the data.
    """

    def __init__(self, dim: int, spec: ToyNetwork, sigma_data: float) -> None:
        super().__init__()
        # registered under one name only: shared weights cannot be checkpointed
        self.preconditioned = PreconditionedDenoiser(
            ResidualMLP(dim, spec, NOISE_SCALE), sigma_data
        )

    @property
    def network(self) -> ResidualMLP:
        """The preconditioned network."""
        return cast(ResidualMLP, self.preconditioned.network)

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return EDM's weighted denoising loss at random noise levels, x (B, n)."""
        sigma = training_sigma(len(x), generator, EDMTraining())
        noise = torch.randn(x.shape, generator=generator)
        scale = self.preconditioned.sigma_data
        return denoising_loss(self.preconditioned, x, sigma, noise, scale)

    def denoiser(self) -> Denoiser:
        """Return D(y; v) at any noise variance."""
        return from_edm(self.preconditioned)


def toy_network(spec: ToyNetwork, points: Tensor, seed: int) -> TinyDiffusion | EDMNetwork:
    """Return an untrained network for points (N, n), its weights drawn from the seed."""
    dim = points.shape[1]
    model: TinyDiffusion | EDMNetwork
    if spec.arch == "tiny":
        model = TinyDiffusion(dim, spec)
    else:
        model = EDMNetwork(dim, spec, float(points.var(0).mean().sqrt()))
    model.network.initialise(torch.Generator().manual_seed(seed))
    return model


class ToyLoss:
    """The loss of one training step of a toy network, for the training loop.

    Args:
        model: the network.
        points: (N, n) float32 training data.
    """

    def __init__(self, model: TinyDiffusion | EDMNetwork, points: Tensor) -> None:
        self.model, self.points = model, points

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of the batch's points."""
        return Losses(self.model.loss(self.points[batch.indices], batch.generator))
