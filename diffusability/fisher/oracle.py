"""Distributions whose posterior is known exactly: the interface, quadrature, and combinations."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.fisher.information import FisherInformation, embedded, rescaled


class Oracle(ABC):
    """A distribution on R^n with an exact (or quadrature) posterior at every noise level.

    All tensors are float64 on the CPU. A subclass defines ``posterior``; score and Hessian of
    log p_v follow from it (Tweedie).

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


ORDER = 16  # nodes per panel: exact to rounding on a panel of two standard deviations
REACH = 9.0  # standard deviations; the normal mass beyond is 2e-19


def panel_rule(edges: list[float], width: float) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of composite Gauss-Legendre quadrature.

    Args:
        edges: increasing ends of the intervals; an integrand may have kinks or jumps there.
        width: largest panel.

    Returns:
        Nodes (Q,) increasing and weights (Q,), float64, no node on an edge.
    """
    points, weights = np.polynomial.legendre.leggauss(ORDER)
    nodes, masses = [], []
    for low, high in pairwise(edges):
        panels = max(1, math.ceil((high - low) / width))
        ends = np.linspace(low, high, panels + 1)
        half = (ends[1:] - ends[:-1]) / 2  # (panels,)
        centre = (ends[1:] + ends[:-1]) / 2  # (panels,)
        nodes.append((centre[:, None] + half[:, None] * points).ravel())
        masses.append((half[:, None] * weights).ravel())
    return torch.from_numpy(np.concatenate(nodes)), torch.from_numpy(np.concatenate(masses))


def normal_rule(breaks: tuple[float, ...], width: float) -> tuple[Tensor, Tensor]:
    """Return nodes (Q,) and weights (Q,) for expectations under the standard normal.

    Args:
        breaks: kinks of the integrand.
        width: largest panel, in standard deviations.
    """
    inside = sorted(b for b in breaks if abs(b) < REACH)
    nodes, weights = panel_rule([-REACH, *inside, REACH], width)
    density = torch.exp(-nodes.square() / 2) / math.sqrt(2 * math.pi)  # (Q,)
    return nodes, weights * density


class Product(Oracle):
    """Independent blocks of coordinates, one oracle per block.

    Args:
        factors: at least one; an object that occurs several times is integrated once.
    """

    def __init__(self, factors: Sequence[Oracle]) -> None:
        self.factors = tuple(factors)
        self.dim = sum(factor.dim for factor in self.factors)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, n) draws."""
        return torch.cat([factor.sample(count, generator) for factor in self.factors], dim=1)

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, n) and block-diagonal covariance (B, n, n) of x given y."""
        parts = y.split([factor.dim for factor in self.factors], dim=1)
        found = [f.posterior(part, v) for f, part in zip(self.factors, parts, strict=True)]
        covariance = y.new_zeros(len(y), self.dim, self.dim)
        start = 0
        for _, block in found:
            index = slice(start, start + block.shape[-1])
            covariance[:, index, index] = block
            start += block.shape[-1]
        return torch.cat([mean for mean, _ in found], dim=1), covariance

    def information(self, v: float) -> FisherInformation:
        """Return the sum over the factors."""
        known: dict[int, FisherInformation] = {}
        for factor in self.factors:
            if id(factor) not in known:
                known[id(factor)] = factor.information(v)
        return reduce(add, (known[id(factor)] for factor in self.factors))


_ORTHONORMAL = 1e-9


class Subspace(Oracle):
    """x = b + c U a with a from another oracle in R^m and U an isometry into R^n.

    Args:
        oracle: distribution of a.
        isometry: U, (n, m) with orthonormal columns.
        scale: c, not zero.
        offset: b, (n,), zero by default.

    Raises:
        MeasurementError: the columns are not orthonormal to 1e-9.
    """

    def __init__(
        self, oracle: Oracle, isometry: Tensor, scale: float = 1.0, offset: Tensor | None = None
    ) -> None:
        self.oracle, self.scale = oracle, scale
        self.isometry = isometry.to(torch.float64)
        self.dim, m = self.isometry.shape
        error = self.isometry.T @ self.isometry - torch.eye(m, dtype=torch.float64)
        if m != oracle.dim or float(error.abs().max()) > _ORTHONORMAL:
            raise MeasurementError(
                f"a {self.dim}x{m} matrix whose columns miss orthonormality by "
                f"{float(error.abs().max()):.1e} is not an isometry of {oracle.dim} dimensions"
            )
        self.offset = torch.zeros(self.dim, dtype=torch.float64) if offset is None else offset

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, n) draws."""
        return self.offset + self.scale * self.oracle.sample(count, generator) @ self.isometry.T

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, n) and covariance (B, n, n) of x given y; zero off the subspace."""
        inner = (y - self.offset) @ self.isometry / self.scale  # (B, m)
        mean, covariance = self.oracle.posterior(inner, v / self.scale**2)
        outer = self.isometry @ covariance @ self.isometry.T  # (B, n, n)
        return self.offset + self.scale * mean @ self.isometry.T, self.scale**2 * outer

    def information(self, v: float) -> FisherInformation:
        """Return the information by Lemma B.1 from the rescaled information of a."""
        inner = self.oracle.information(v / self.scale**2)
        return embedded(rescaled(inner, self.scale), self.dim)
