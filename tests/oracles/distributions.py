"""Distributions with an exact posterior, and denoisers made from exact functions, for tests."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.special import i0e, i1e

from diffusability.errors import MeasurementError
from diffusability.fisher.denoiser import Denoiser
from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import REACH, Oracle, panel_rule, posterior_information

_BATCH_BYTES = 2**27
_STEP = {1: 0.01, 2: 0.1, 3: 0.4}  # of the lattice, by dimension, in standard deviations
_BATCH = 20_000


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


def normal_lattice(dim: int, step: float) -> tuple[Tensor, Tensor]:
    """Return the trapezoid rule for expectations under N(0, I), cut off at radius 9.

    For integrands that are analytic within d of the real space the error is e^(-2 pi d / step):
    a posterior that switches sharply needs many nodes, of any rule, and here they are even.

    Args:
        dim: dimensions.
        step: distance of nodes, in standard deviations.

    Returns:
        Nodes (Q, dim) and weights (Q,) summing to 1, float64.
    """
    side = math.ceil(REACH / step)
    axis = torch.arange(-side, side + 1, dtype=torch.float64) * step
    nodes = torch.cartesian_prod(*[axis] * dim).view(-1, dim)
    square = nodes.square().sum(1)
    inside = square <= REACH**2
    weights = torch.exp(-square[inside] / 2)
    return nodes[inside], weights / weights.sum()


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


class EmpiricalMeasure(Oracle):
    """sum_i w_i delta(x_i): what a model that memorises its training set perfectly would learn.

    Its smoothed FI overestimates that of the distribution behind the points (FI is convex), and
    below v ~ (nearest-neighbour distance)^2 / (2 log N) it sees N separate atoms.

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


def from_oracle(oracle: Oracle) -> Denoiser:
    """Return the exact denoiser of an oracle, as a differentiable function of y."""

    def denoise(y: Tensor, v: float, labels: Tensor | None = None) -> Tensor:
        return oracle.denoise(y, v)

    return denoise


def from_score(score: Callable[[Tensor, float], Tensor]) -> Denoiser:
    """Return D = y + v s(y; v) (Tweedie) of a score s of p_v."""

    def denoise(y: Tensor, v: float, labels: Tensor | None = None) -> Tensor:
        return y + v * score(y, v)

    return denoise


def score_jacobian(oracle: Oracle, y: Tensor, v: float) -> Tensor:
    """Return the Hessian of log p_v, (Cov(x|y) / v - I) / v, (B, n, n)."""
    covariance = oracle.posterior(y, v)[1]
    return (covariance / v - torch.eye(oracle.dim, dtype=covariance.dtype)) / v
