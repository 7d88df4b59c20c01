"""The interface of distributions whose posterior is known exactly."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusability.fisher.information import FisherInformation


class Oracle(ABC):
    """A distribution on R^n with an exact (or quadrature) posterior at every noise level.

    All tensors are float64 on the CPU. ``posterior`` is all that a distribution must state
    pointwise: score and Hessian of log p_v follow from it (Tweedie).

    Attributes:
        dim: n.
    """

    dim: int

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, n) draws of x."""

    @abstractmethod
    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, n) and covariance (B, n, n) of x given y = x + sqrt(v) z.

        Args:
            y: (B, n) noisy points.
            v: noise variance, positive.
        """

    @abstractmethod
    def information(self, v: float) -> FisherInformation:
        """Return FI, FIR, MMSE and MMSE rate at noise variance v, exact or by quadrature."""

    def denoise(self, y: Tensor, v: float) -> Tensor:
        """Return D(y) = E[x|y], (B, n)."""
        return self.posterior(y, v)[0]

    def score(self, y: Tensor, v: float) -> Tensor:
        """Return s(y) = grad log p_v(y) = (D(y) - y) / v, (B, n)."""
        return (self.denoise(y, v) - y) / v


def posterior_information(covariance: Tensor, weights: Tensor, v: float) -> FisherInformation:
    """Return the information as an average of posterior covariances.

    Args:
        covariance: (B, n, n) Cov(x|y) at quadrature nodes or draws of y.
        weights: (B,) weights of the nodes under p_v, summing to 1.
        v: noise variance.
    """
    dim = covariance.shape[-1]
    gain = covariance / v  # (B, n, n), G
    rest = torch.eye(dim, dtype=gain.dtype) - gain  # (B, n, n), I - G, without cancellation later
    trace = torch.diagonal(rest, dim1=1, dim2=2).sum(1)  # (B,)
    return FisherInformation(
        v,
        dim,
        float(weights @ trace) / v,
        float(weights @ rest.square().sum((1, 2))) / v**2,
        float(weights @ torch.diagonal(gain, dim1=1, dim2=2).sum(1)) * v,
        float(weights @ gain.square().sum((1, 2))),
    )
