"""The distribution of f(x), x standard normal: a coordinatewise encoder, by quadrature."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import Oracle, posterior_information
from diffusability.fisher.quadrature import REACH, normal_rule, panel_rule

_BATCH_BYTES = 2**22  # what fits a processor's cache


class Pushforward(Oracle):
    """The distribution of f(x) on the line, x ~ N(0, 1).

    Args:
        function: f, elementwise on float64 tensors; smooth between breaks.
        breaks: points where f has a kink or a jump.
        lipschitz: largest |f'|, which sets how fine the quadrature must be.
    """

    dim = 1

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        breaks: tuple[float, ...] = (0.0,),
        lipschitz: float = 1.0,
    ) -> None:
        self.function, self.breaks, self.lipschitz = function, breaks, lipschitz

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, 1) draws."""
        return self.function(torch.randn(count, 1, generator=generator, dtype=torch.float64))

    def _rule(self, v: float) -> tuple[Tensor, Tensor]:
        """Return images (Q,) of the nodes and weights (Q,), fine enough for noise variance v."""
        nodes, weights = normal_rule(self.breaks, min(1.0, 2 * math.sqrt(v) / self.lipschitz))
        return self.function(nodes), weights

    def _moments(self, y: Tensor, v: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return p_v (up to a factor), posterior mean and variance at y (B,), each (B,)."""
        images, weights = self._rule(v)
        found = []
        for part in y.split(max(1, _BATCH_BYTES // (8 * len(images)))):
            offset = images - part[:, None]  # (b, Q); moments about y lose no digits at small v
            kernel = weights * torch.exp(-offset.square() / (2 * v))
            mass = kernel.sum(1)
            mean = (kernel * offset).sum(1) / mass
            second = (kernel * (offset - mean[:, None]).square()).sum(1) / mass
            found.append(torch.stack((mass, part + mean, second)))
        mass, mean, variance = torch.cat(found, dim=1)
        return mass, mean, variance

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, 1) and covariance (B, 1, 1) of f(x) given y, |y| within reach of f."""
        _, mean, variance = self._moments(y[:, 0], v)
        return mean[:, None], variance[:, None, None]

    def information(self, v: float) -> FisherInformation:
        """Return the information by quadrature over y."""
        images, _ = self._rule(v)
        spread = math.sqrt(v)
        low, high = float(images.min()) - REACH * spread, float(images.max()) + REACH * spread
        y, weights = panel_rule([low, high], spread)
        mass, _, variance = self._moments(y, v)
        weights = weights * mass
        return posterior_information(variance[:, None, None], weights / weights.sum(), v)
