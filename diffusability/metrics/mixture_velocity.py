"""Marginal VIV of a Gaussian mixture: class-conditional VIV plus between-class spread.

For x_t of a mixture sum_k pi_k N(mu_k, S_k) the trace of Var(v | x_t) is
sum_k r_k W_k + sum_k r_k |m_k|^2 - |sum_k r_k m_k|^2 with responsibilities r_k(x), conditional mean
velocities m_k(x) = mu_k + (t S_k - (1-t) I) C_k^-1 (x - t mu_k), C_k = (1-t)^2 I + t^2 S_k, and
W_k = tr(S_k C_k^-1). The expectation of the first sum is exactly sum_k pi_k W_k, the conditional
VIV of Eq. 4 of "Diffusing in the Right Space" (arXiv 2606.03578), which has a closed form. Only
the spread of m_k between classes, never negative, needs Monte Carlo.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.thread_map import thread_map

_NEGLIGIBLE = 1e-12  # responsibilities below it change the spread by less than rounding
_POINTS_AT_ONCE = 16  # on a CPU: their rotations stay in the cache
_TIME_POWER = 3  # strata edges (j/S)^3: two thirds of them below t = 0.3, where classes mix


@dataclass(frozen=True)
class KroneckerMixture:
    """K equally likely matrix-normal classes, in the eigenbasis of each.

    Attributes:
        means: (K, p, q) class means.
        row_values: (K, p) eigenvalues a of A_k, which carry the scale.
        row_vectors: (K, p, p) eigenvectors of A_k, in columns.
        column_values: (K, q) eigenvalues b of B_k.
        column_vectors: (K, q, q) eigenvectors of B_k, in columns.
    """

    means: Tensor
    row_values: Tensor
    row_vectors: Tensor
    column_values: Tensor
    column_vectors: Tensor

    @classmethod
    def empty(cls, K: int, p: int, q: int, device: torch.device) -> "KroneckerMixture":
        """Return uninitialised storage for K float64 components, the largest part K q^2."""
        shapes = ((K, p, q), (K, p), (K, p, p), (K, q), (K, q, q))
        return cls(*(torch.empty(shape, dtype=torch.float64, device=device) for shape in shapes))

    def eigenvalues(self, k: int | Tensor) -> Tensor:
        """Return the (..., p, q) eigenvalues a_i b_j of the covariance of component k."""
        return self.row_values[k][..., :, None] * self.column_values[k][..., None, :]

    def rotate(self, matrices: Tensor, k: int | Tensor) -> Tensor:
        """Return U_a^T M U_b, (..., p, q) matrices in the eigenbasis of component k."""
        return self.row_vectors[k].mT @ (matrices @ self.column_vectors[k])

    def rotate_back(self, matrices: Tensor, k: int | Tensor) -> Tensor:
        """Return U_a M U_b^T, the inverse of ``rotate``."""
        return self.row_vectors[k] @ (matrices @ self.column_vectors[k].mT)


def between_class_spread(mixture: KroneckerMixture, points: Tensor, times: Tensor) -> Tensor:
    """Return sum_k r_k |m_k|^2 - |sum_k r_k m_k|^2 per dimension at given points.

    Args:
        mixture: the classes.
        points: (M, p, q) positions x_t.
        times: (M,) in [0, 1), noise at 0.

    Returns:
        (M,) >= 0, in noise variances.
    """
    size = _POINTS_AT_ONCE if points.device.type == "cpu" else len(points)
    pieces = list(zip(points.split(size), times.split(size), strict=True))
    return torch.cat(thread_map(lambda one: _spread(mixture, *one), pieces, points.device))


def _spread(mixture: KroneckerMixture, points: Tensor, times: Tensor) -> Tensor:
    """Return the (M,) between-class spread at (M, p, q) points, class by class."""
    shares = _responsibilities(mixture, points, times)  # (M, K)
    weight, spread = torch.zeros_like(times), torch.zeros_like(times)  # (M,) each
    centre = torch.zeros_like(points)  # (M, p, q), running mean velocity
    for k in range(shares.shape[1]):
        # where classes do not overlap the spread is zero; skip the velocity
        near = torch.nonzero((shares[:, k] > _NEGLIGIBLE) & (shares[:, k] < 1)).flatten()  # (J,)
        if near.numel() == 0:
            continue
        share = shares[near, k]  # (J,)
        # West's weighted update: the difference of the two sums without their cancellation
        step = _conditional_velocity(mixture, points[near], times[near], k) - centre[near]
        grown = weight[near] + share  # (J,)
        spread[near] += step.square().sum(dim=(1, 2)) * weight[near] * share / grown
        centre[near] += step * (share / grown)[:, None, None]
        weight[near] = grown
    return spread / points[0].numel()


def between_class_variance(
    mixture: KroneckerMixture,
    *,
    generator: torch.Generator,
    strata: int = 16,
    samples: int = 8,
) -> tuple[float, float]:
    """Integrate the between-class spread over t ~ U(0, 1) and x_t by stratified Monte Carlo.

    Strata of t have the edges (j / strata)^3, dense where t is small and classes overlap.

    Args:
        mixture: the classes, equally likely.
        generator: draws classes, times and points.
        strata: number of strata of t.
        samples: points drawn in each, at least 2.

    Returns:
        Estimate (unbiased, >= 0, per dimension, in noise variances; LOWER is better) and its
        Monte-Carlo standard error; both 0 for one class.

    Raises:
        MeasurementError: fewer than two samples per stratum.
    """
    if samples < 2:
        raise MeasurementError("A standard error needs at least two samples per stratum")
    if mixture.means.shape[0] == 1:
        return 0.0, 0.0
    edges = torch.linspace(0, 1, strata + 1, dtype=torch.float64) ** _TIME_POWER  # (S + 1,)
    widths = edges.diff()  # (S,)
    low, width = (v.repeat_interleave(samples) for v in (edges[:-1], widths))  # (S * samples,)
    points, times = _draw(mixture, low, width, generator)
    spread = between_class_spread(mixture, points, times).cpu().reshape(strata, samples)
    value = float((widths * spread.mean(dim=1)).sum())
    variance = float((widths.square() * spread.var(dim=1, correction=1) / samples).sum())
    return value, variance**0.5


def _draw(
    mixture: KroneckerMixture, low: Tensor, width: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw (M, p, q) points x_t and their (M,) times, uniform in intervals of given (M,) edges."""
    count, (K, p, q) = low.numel(), mixture.means.shape
    where: dict[str, Any] = {"generator": generator, "device": generator.device}
    k = torch.randint(K, (count,), **where).to(mixture.means.device)
    uniform = torch.rand(count, dtype=torch.float64, **where).to(mixture.means)
    noise = torch.randn(count, p, q, dtype=torch.float64, **where).to(mixture.means)
    times = low.to(uniform) + width.to(uniform) * uniform  # (M,)
    points = torch.empty_like(noise)
    for one, (t, own) in enumerate(
        zip(times, k, strict=True)
    ):  # loop over classes to avoid an (M, q, q) array
        spread = ((1 - t).square() + t.square() * mixture.eigenvalues(own)).sqrt()  # (p, q)
        rotated = mixture.rotate_back(noise[one] * spread, own)  # (p, q)
        points[one] = t * mixture.means[own] + rotated
    return points, times


def _responsibilities(mixture: KroneckerMixture, points: Tensor, times: Tensor) -> Tensor:
    """Return the (M, K) posterior class probabilities of points x_t, class by class."""
    t = times[:, None, None]  # (M, 1, 1)
    scores = []
    for k in range(mixture.means.shape[0]):
        variance = (1 - t).square() + t.square() * mixture.eigenvalues(k)  # (M, p, q)
        residual = mixture.rotate(points - t * mixture.means[k], k)  # (M, p, q)
        distance = (residual.square() / variance).sum(dim=(1, 2))  # (M,)
        scores.append(-0.5 * (distance + variance.log().sum(dim=(1, 2))))
    return torch.stack(scores, dim=1).softmax(dim=1)  # (M, K)


def _conditional_velocity(
    mixture: KroneckerMixture, points: Tensor, times: Tensor, k: int
) -> Tensor:
    """Return (J, p, q) the mean velocity of class k at (J, p, q) points."""
    t = times[:, None, None]  # (J, 1, 1)
    eigenvalues = mixture.eigenvalues(k)  # (p, q)
    gain = (t * eigenvalues - (1 - t)) / ((1 - t).square() + t.square() * eigenvalues)  # (J, p, q)
    residual = mixture.rotate(points - t * mixture.means[k], k)  # (J, p, q)
    return mixture.means[k] + mixture.rotate_back(gain * residual, k)
