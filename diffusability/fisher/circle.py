"""The uniform distribution on a circle: the smallest curved support."""

import math

import torch
from torch import Tensor
from torch.special import i0e, i1e

from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import Oracle, posterior_information
from diffusability.fisher.quadrature import REACH, panel_rule


class Circle(Oracle):
    """Uniform on |x| = R in the plane; the posterior at y is von Mises with k = R |y| / v.

    Args:
        radius: R, positive, in data units.
    """

    dim = 2

    def __init__(self, radius: float = 1.0) -> None:
        self.radius = radius

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, 2) draws."""
        angle = torch.rand(count, generator=generator, dtype=torch.float64) * (2 * math.pi)
        return self.radius * torch.stack((angle.cos(), angle.sin()), dim=1)

    def _polar(self, r: Tensor, v: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return posterior mean length and radial and tangential variance at |y| = r."""
        k = self.radius * r / v
        ratio = i1e(k) / i0e(k)  # A = I1 / I0
        tangential = torch.where(k > 0, ratio / k.clamp(min=1e-300), 0.5)  # A / k
        radial = 1 - ratio.square() - tangential
        return self.radius * ratio, self.radius**2 * radial, self.radius**2 * tangential

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, 2) and covariance (B, 2, 2) of x given y."""
        r = y.norm(dim=1)  # (B,)
        length, radial, tangential = self._polar(r, v)
        out = y / r.clamp(min=1e-300)[:, None]  # (B, 2) unit vectors
        along = torch.einsum("bi,bj->bij", out, out)
        eye = torch.eye(2, dtype=y.dtype)
        covariance = radial[:, None, None] * along + tangential[:, None, None] * (eye - along)
        return length[:, None] * out, covariance

    def information(self, v: float) -> FisherInformation:
        """Return the information by quadrature over |y|, which is Rice distributed."""
        spread = math.sqrt(v)
        low = max(0.0, self.radius - REACH * spread)
        r, weights = panel_rule([low, self.radius + REACH * spread], spread / 2)
        weights = weights * r * torch.exp(-(r - self.radius).square() / (2 * v))
        weights = weights * i0e(self.radius * r / v)
        _, radial, tangential = self._polar(r, v)
        covariance = torch.diag_embed(torch.stack((radial, tangential), dim=1))  # (Q, 2, 2)
        return posterior_information(covariance, weights / weights.sum(), v)
