"""Base class of diffusion networks on latents, time embedding, and modulation."""

import math
from abc import abstractmethod
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusability.errors import StudyError
from diffusability.nn.initialisation import SeededModule
from diffusability.nn.positions import PERIOD
from diffusability.study.entries.backbone import Backbone

Options = TypeVar("Options", bound=Backbone)


class LatentNetwork(SeededModule, Generic[Options]):
    """A network on latents, conditioned on time (or EDM's noise level) and class.

    Arguments and output of `forward` are named as in flow matching; EDM passes c_in y and
    ln(sigma) / 4 instead (`edm.precondition`).

    A subclass builds its layers on the meta device; `initialise` or saved weights fill them.
    """

    def __init__(self, spec: Options, latent_shape: tuple[int, int, int], num_classes: int) -> None:
        """Check and store the sizes.

        Args:
            spec: the backbone's options.
            latent_shape: (C, H, W) of the latent.
            num_classes: classes; the label `num_classes` is the null class of guidance.

        Raises:
            StudyError: the options do not fit the latent grid.
        """
        super().__init__()
        self.latent_channels, *grid = latent_shape
        self.grid, self.num_classes = (grid[0], grid[1]), num_classes
        for side in grid:
            for key, reason in spec.misfits(side):
                raise StudyError(f"backbone {spec.arch}: {key}: {reason}")

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity at the noisy latents x.

        Args:
            x: (B, C, H, W) latents on the path.
            t: (B,) time in [0, 1], 0 noise and 1 data; ln(sigma) / 4 for EDM.
            y: (B,) int64 labels in [0, num_classes]; num_classes is the null class.

        Returns:
            (B, C, H, W) velocity, latent units per unit of time, from noise towards data.
        """


def timestep_sinusoid(t: Tensor, dim: int) -> Tensor:
    """Return cosines and sines of t at geometrically spaced frequencies.

    Args:
        t: (B,) time in [0, 1], unscaled as in SiT.
        dim: even number of features.

    Returns:
        (B, dim): dim/2 cosines, then dim/2 sines, in the dtype of t.
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=t.dtype, device=t.device) / half
    angle = t[:, None] * torch.exp(-math.log(PERIOD) * exponent)  # (B, dim/2)
    return torch.cat((angle.cos(), angle.sin()), dim=1)


class TimestepEmbedding(nn.Module):
    """Embedding of time: sinusoids, then a two-layer SiLU network."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = nn.Linear(frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Embed t (B,) in [0, 1] as (B, width)."""
        wave = timestep_sinusoid(t, self.frequencies)  # (B, frequencies)
        return self.out(F.silu(self.hidden(wave)))  # (B, width)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x (1 + scale) + shift, with shift and scale (B, 1, D) shared by the tokens of x."""
    return torch.addcmul(shift, x, 1 + scale)  # one pass over x instead of two
