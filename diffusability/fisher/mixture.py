"""The Gaussian mixture oracle."""

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import Oracle, posterior_information
from diffusability.fisher.quadrature import normal_lattice

_STEP = {1: 0.01, 2: 0.1, 3: 0.4}  # of the lattice, by dimension, in standard deviations
_BATCH = 20_000


class GaussianMixture(Oracle):
    """sum_k w_k N(mu_k, C_k), singular C_k included.

    Args:
        weights: (K,) positive; their sum is divided out.
        means: (K, n).
        covariances: (K, n, n) symmetric, positive semidefinite.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights = weights.to(torch.float64) / weights.sum(dtype=torch.float64)
        self.means = means.to(torch.float64)
        self.dim = self.means.shape[1]
        values, self.vectors = torch.linalg.eigh(covariances.to(torch.float64))
        self.values = values.clamp(min=0)  # (K, n)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, n) draws."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        spread = self.vectors * self.values.sqrt()[:, None]  # (K, n, n)
        return self.means[k] + torch.einsum("bij,bj->bi", spread[k], z)

    def responsibilities(self, y: Tensor, v: float) -> Tensor:
        """Return (B, K) probabilities of the components given y."""
        offset = torch.einsum("bkn,knm->bkm", y[:, None] - self.means, self.vectors)  # (B, K, n)
        total = self.values + v  # (K, n)
        log = self.weights.log() - ((offset.square() / total).sum(2) + total.log().sum(1)) / 2
        return torch.softmax(log, dim=1)

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, n) and covariance (B, n, n) of x given y."""
        r = self.responsibilities(y, v)  # (B, K)
        shrink = self.values / (self.values + v)  # (K, n)
        gain = self.vectors * shrink[:, None] @ self.vectors.mT  # (K, n, n)
        means = self.means + torch.einsum("kij,bkj->bki", gain, y[:, None] - self.means)
        mean = torch.einsum("bk,bki->bi", r, means)
        offset = means - mean[:, None]  # (B, K, n)
        within = v * torch.einsum("bk,kij->bij", r, gain)
        return mean, within + torch.einsum("bk,bki,bkj->bij", r, offset, offset)

    def information(self, v: float) -> FisherInformation:
        """Return the information by the trapezoid rule around every component.

        Raises:
            MeasurementError: there are more than three dimensions; estimate it from draws there.
        """
        if self.dim not in _STEP:
            raise MeasurementError(
                f"quadrature of a mixture in {self.dim} dimensions is out of reach; estimate its "
                "information from draws with diffusability.fisher.estimator"
            )
        nodes, masses = normal_lattice(self.dim, _STEP[self.dim])
        spread = self.vectors * (self.values + v).sqrt()[:, None]  # (K, n, n)
        y = self.means[:, None] + torch.einsum("kij,qj->kqi", spread, nodes)  # (K, Q, n)
        weights = (self.weights[:, None] * masses).flatten()  # (K * Q,)
        covariances = [self.posterior(part, v)[1] for part in y.flatten(0, 1).split(_BATCH)]
        return posterior_information(torch.cat(covariances), weights, v)
