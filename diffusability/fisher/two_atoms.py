"""Two equal atoms at -a and a: the smallest distribution that is not log-concave."""

import math

import torch
from torch import Tensor

from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import Oracle, posterior_information
from diffusability.fisher.quadrature import REACH


class TwoAtoms(Oracle):
    """Half the mass at -a, half at a; E[x|y] = a tanh(a y / v).

    Args:
        a: half the distance, positive, in data units.
    """

    dim = 1

    def __init__(self, a: float = 1.0) -> None:
        self.a = a

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, 1) draws."""
        signs = torch.randint(0, 2, (count, 1), generator=generator).to(torch.float64) * 2 - 1
        return self.a * signs

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, 1) and covariance (B, 1, 1), a^2 sech^2(a y / v), of x given y."""
        u = self.a * y / v  # (B, 1)
        decay = torch.exp(-2 * u.abs())  # sech^2 without overflow and without 1 - tanh^2
        return self.a * torch.tanh(u), (self.a**2 * 4 * decay / (1 + decay) ** 2)[:, :, None]

    def information(self, v: float) -> FisherInformation:
        """Return the information by the trapezoid rule on y = a + sqrt(v) z (x = -a mirrors it).

        The poles of the posterior stand at z = i pi sqrt(v) / (2 a), which sets the step.
        """
        step = min(0.25, 0.2 * math.sqrt(v) / self.a)
        z = torch.arange(-REACH, REACH, step, dtype=torch.float64)  # (Q,)
        weights = torch.exp(-z.square() / 2)
        covariance = self.posterior((self.a + math.sqrt(v) * z)[:, None], v)[1]
        return posterior_information(covariance, weights / weights.sum(), v)
