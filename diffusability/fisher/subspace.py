"""A distribution carried into a subspace by a similarity: Lemma B.1 and the law of scale."""

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.fisher.information import FisherInformation, embedded, rescaled
from diffusability.fisher.oracle import Oracle

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
                f"{float(error.abs().max()):.1e} is no isometry of {oracle.dim} dimensions"
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
        """Return Lemma B.1 on the rescaled information of a."""
        inner = self.oracle.information(v / self.scale**2)
        return embedded(rescaled(inner, self.scale), self.dim)
