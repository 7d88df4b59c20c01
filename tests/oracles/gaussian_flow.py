"""The closed-form flow of Gaussian data: the oracle of samplers and of trajectory statistics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.errors import MeasurementError


@dataclass(frozen=True)
class GaussianFlow:
    """The marginal flow from N(0, I) to N(mean, diag variance) on the linear path.

    Attributes:
        mean: (...) mean of the data.
        variance: (...) variance of each coordinate of the data, above 0.
    """

    mean: Tensor
    variance: Tensor

    def __post_init__(self) -> None:
        """Refuse a degenerate Gaussian, whose velocity has no limit at t = 1."""
        if not bool((self.variance > 0).all()):
            raise MeasurementError("Gaussian flow: every variance must be above 0")

    def spread(self, t: float) -> Tensor:
        """Return the standard deviation (...) of x_t, sqrt((1 - t)^2 + t^2 variance)."""
        return ((1 - t) ** 2 + t**2 * self.variance).sqrt()

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Return the exact velocity E[x1 - x0 | x_t = x].

        Args:
            x: (B, ...) points.
            t: time in [0, 1], 0 noise and 1 data.

        Returns:
            (B, ...) velocity.
        """
        growth = (t * self.variance - (1 - t)) / self.spread(t).square()  # d/dt log spread
        return self.mean + growth * (x - t * self.mean)

    def flow_map(self, noise: Tensor, t: float) -> Tensor:
        """Return where the flow carries noise (B, ...) of t = 0 by time t, exactly."""
        return t * self.mean + self.spread(t) * noise

    def trajectory_limit(self, times: Sequence[float]) -> tuple[float, float, Tensor]:
        """Return the trajectory statistics of the exact flow as the dimension grows.

        Norms and dot products of the steps concentrate at their expectations over the noise,
        sum(dt_i dt_j mean^2 + ds_i ds_j) with ds the change of the spread, so the statistics of
        a sample differ from these by O(1 / sqrt(dimension)).

        Args:
            times: M + 1 increasing times from 0 to 1.

        Returns:
            Straightness (Eq. 10), efficiency (Eq. 11) and the (M,) length ratios (Fig. 10) of
            arXiv 2606.03578; see `diffusability.metrics.trajectory`.
        """
        spread = torch.stack([self.spread(t).flatten() for t in times])  # (M + 1, d)
        drift = torch.tensor(times, dtype=spread.dtype)[:, None] * self.mean.flatten()
        steps = torch.cat((drift, spread), dim=1).diff(dim=0)  # (M, 2 d)
        lengths = steps.norm(dim=1)  # (M,)
        distance = steps.sum(dim=0).norm()
        cosine = (steps[1:] * steps[:-1]).sum(dim=1) / (lengths[1:] * lengths[:-1])
        efficiency = distance / lengths.sum()
        return float(cosine.mean()), float(efficiency), len(lengths) * lengths / distance
