"""Independent coordinates: information adds."""

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import Oracle


class Product(Oracle):
    """Independent blocks of coordinates, one oracle a block.

    Args:
        factors: at least one; the same object may stand several times, and is integrated once.
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
            place = slice(start, start + block.shape[-1])
            covariance[:, place, place] = block
            start += block.shape[-1]
        return torch.cat([mean for mean, _ in found], dim=1), covariance

    def information(self, v: float) -> FisherInformation:
        """Return the sum over the factors."""
        known: dict[int, FisherInformation] = {}
        for factor in self.factors:
            if id(factor) not in known:
                known[id(factor)] = factor.information(v)
        return reduce(add, (known[id(factor)] for factor in self.factors))
