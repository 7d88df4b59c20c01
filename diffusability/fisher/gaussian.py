"""The Gaussian oracle, and its linear transformations."""

import torch
from torch import Tensor

from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import Oracle


def gaussian_information(eigenvalues: Tensor, v: float) -> FisherInformation:
    """Return the information of a Gaussian from the eigenvalues lam of its covariance.

    FI = sum 1/(lam+v), FIR = sum 1/(lam+v)^2, mmse = sum lam v/(lam+v), rate = sum lam^2/(lam+v)^2.
    For any distribution with this covariance, FI and FIR are lower and mmse is an upper bound.

    Args:
        eigenvalues: (n,) non-negative.
        v: noise variance, positive.
    """
    lam = eigenvalues.to(torch.float64)
    inverse = 1 / (lam + v)  # (n,)
    return FisherInformation(
        v,
        lam.numel(),
        float(inverse.sum()),
        float(inverse.square().sum()),
        float((lam * v * inverse).sum()),
        float((lam * inverse).square().sum()),
    )


class Gaussian(Oracle):
    """N(mean, covariance), singular covariances included.

    Args:
        mean: (n,).
        covariance: (n, n) symmetric, positive semidefinite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean = mean.to(torch.float64)
        self.covariance = covariance.to(torch.float64)
        self.dim = self.mean.numel()
        values, self.vectors = torch.linalg.eigh(self.covariance)
        self.values = values.clamp(min=0)  # (n,)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, n) draws."""
        z = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return self.mean + z * self.values.sqrt() @ self.vectors.T

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, n) and covariance (B, n, n) of x given y."""
        shrink = self.values / (self.values + v)  # (n,)
        mean = self.mean + ((y - self.mean) @ self.vectors * shrink) @ self.vectors.T
        covariance = self.vectors * (v * shrink) @ self.vectors.T  # (n, n)
        return mean, covariance.expand(len(y), -1, -1)

    def information(self, v: float) -> FisherInformation:
        """Return the closed form."""
        return gaussian_information(self.values, v)

    def image(self, matrix: Tensor, shift: Tensor | None = None) -> "Gaussian":
        """Return the distribution of W x + b, a linear encoder's latents.

        Args:
            matrix: (d, n).
            shift: (d,), zero by default.
        """
        matrix = matrix.to(torch.float64)
        mean = matrix @ self.mean + (0 if shift is None else shift)
        return Gaussian(mean, matrix @ self.covariance @ matrix.T)


def standard_normal(dim: int) -> Gaussian:
    """Return N(0, I)."""
    return Gaussian(torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64))
