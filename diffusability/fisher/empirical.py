"""The empirical measure of a finite set of points: what a perfectly memorising model would learn.

Its smoothed FI over-estimates that of the distribution behind the points (FI is convex), and below
v ~ (nearest-neighbour distance)^2 / (2 log N) it sees N separate atoms.
"""

import torch
from torch import Tensor

from diffusability.fisher.information import FisherInformation
from diffusability.fisher.mixture import GaussianMixture
from diffusability.fisher.oracle import Oracle

_BATCH_BYTES = 2**27


class EmpiricalMeasure(Oracle):
    """sum_i w_i delta(x_i).

    Args:
        points: (N, n).
        weights: (N,) positive, their sum is divided out; equal by default.
    """

    def __init__(self, points: Tensor, weights: Tensor | None = None) -> None:
        self.points = points.to(torch.float64)
        count, self.dim = self.points.shape
        if weights is None:
            weights = torch.ones(count)
        self.weights = weights.to(torch.float64) / weights.sum(dtype=torch.float64)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, n) draws of the points, with replacement."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.points[chosen]

    def responsibilities(self, y: Tensor, v: float) -> Tensor:
        """Return (B, N) probabilities of the points given y, softmax(log w - |y - x|^2 / 2v)."""
        # the square is expanded so that a batch costs one matrix product and no (B, N, n) array
        log = self.weights.log() + (y @ self.points.T - self.points.square().sum(1) / 2) / v
        return torch.softmax(log, dim=1)

    def effective_sample_size(self, y: Tensor, v: float) -> Tensor:
        """Return (B,) 1 / sum_i r_i^2: how many points the posterior at y rests on."""
        return 1 / self.responsibilities(y, v).square().sum(1)

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, n) and covariance (B, n, n) of x given y."""
        means, covariances = [], []
        outer = torch.einsum("ni,nj->nij", self.points, self.points).flatten(1)  # (N, n * n)
        for part in y.split(max(1, _BATCH_BYTES // (8 * len(self.points)))):
            r = self.responsibilities(part, v)  # (B, N)
            mean = r @ self.points
            second = (r @ outer).view(-1, self.dim, self.dim)
            means.append(mean)
            covariances.append(second - torch.einsum("bi,bj->bij", mean, mean))
        return torch.cat(means), torch.cat(covariances)

    def information(self, v: float) -> FisherInformation:
        """Return the information by the trapezoid rule around every point; n at most 3.

        Meant for few points: the work grows with the square of their number.
        """
        nothing = torch.zeros(len(self.points), self.dim, self.dim)
        return GaussianMixture(self.weights, self.points, nothing).information(v)
