"""Distributions with an exact posterior, one of each kind, that the Fisher tests share."""

import torch

from diffusability.fisher.gaussian import Gaussian
from diffusability.fisher.oracle import Product, Subspace
from diffusability.fisher.toy_oracles import Arc, Pushforward
from tests.oracles.distributions import Circle, EmpiricalMeasure, GaussianMixture, TwoAtoms

FLOAT = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


def isometry(n: int, m: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(n, m, seed=seed))[0]


def covariance(n: int, seed: int = 0) -> torch.Tensor:
    root = normal(n, n, seed=seed)
    return root @ root.T / n


def mixture(n: int = 3) -> GaussianMixture:
    spreads = torch.stack([0.1 * covariance(n, seed=k) for k in range(3)])
    return GaussianMixture(torch.tensor([0.2, 0.3, 0.5]), normal(3, n, seed=9), spreads)


def bent(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, 0.5 * x, x)


ORACLES = {
    "gaussian": Gaussian(normal(3), covariance(3)),
    "mixture": mixture(2),
    "empirical": EmpiricalMeasure(normal(7, 2)),
    "weighted": EmpiricalMeasure(normal(3, 1), torch.tensor([0.2, 0.3, 0.5])),
    "atoms": TwoAtoms(0.8),
    "circle": Circle(1.3),
    "pushforward": Pushforward(bent),
    "arc": Arc(1.25),
    "product": Product([TwoAtoms(), Circle(1.0), TwoAtoms()]),
    "subspace": Subspace(Circle(1.0), isometry(4, 2), 1.7, normal(4)),
}
