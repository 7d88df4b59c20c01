"""Bi-Lipschitz constants of an encoder: how far it stretches and shrinks distances.

Appendix F of arXiv 2604.02751 takes the extremes over all pairs of a sample. They depend on its
size, and in high dimension a sample hardly ever holds the worst direction; so quantiles and the
singular values of the local Jacobian stand beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusability.errors import MeasurementError

LEVELS = (0.01, 0.05, 0.5, 0.95, 0.99)


@dataclass(frozen=True)
class BiLipschitz:
    """Quotients |E(x) - E(x')| / |x - x'| over all pairs.

    Attributes:
        lower: a, the smallest.
        upper: b, the largest; b / a = 1 for a similarity.
        quantiles: at 1, 5, 50, 95 and 99 per cent.
        pairs: how many pairs stand behind them; pairs of equal data are left out.
    """

    lower: float
    upper: float
    quantiles: tuple[float, ...]
    pairs: int

    @property
    def ratio(self) -> float:
        """Return b / a, at least 1; infinite where different data share a latent."""
        return self.upper / self.lower if self.lower > 0 else float("inf")


def bilipschitz(x: Tensor, z: Tensor) -> BiLipschitz:
    """Return the quotients' extremes and quantiles over all pairs of data.

    Args:
        x: (N, ...) data; the pairs take 4 N^2 bytes of float64.
        z: (N, ...) their latents.

    Raises:
        MeasurementError: the numbers differ, or all data are equal.
    """
    quotients = distance_quotients(x, z)
    quotients = quotients[~quotients.isnan()].sort().values
    if not len(quotients):
        raise MeasurementError(f"{len(x)} equal data have no distances; give different ones")
    # torch.quantile refuses more than 16 million values
    places = (torch.tensor(LEVELS) * (len(quotients) - 1)).round().to(torch.int64)
    return BiLipschitz(
        float(quotients[0]),
        float(quotients[-1]),
        tuple(quotients[places].tolist()),
        len(quotients),
    )


def distance_quotients(x: Tensor, z: Tensor) -> Tensor:
    """Return |E(x) - E(x')| / |x - x'| of every pair, NaN for pairs of equal data.

    Args:
        x: (N, ...) data; the pairs take 4 N^2 bytes of float64.
        z: (N, ...) their latents.

    Returns:
        (N (N - 1) / 2,) float64, in the order of `torch.triu_indices(N, N, 1)`.

    Raises:
        MeasurementError: the numbers differ.
    """
    if len(x) != len(z):
        raise MeasurementError(f"{len(x)} data and {len(z)} latents do not belong together")
    before = F.pdist(x.flatten(1).to(torch.float64))  # (P,)
    after = F.pdist(z.flatten(1).to(torch.float64))  # (P,)
    return torch.where(before > 0, after / before, torch.nan)


def local_singular_values(encoder: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the singular values of the encoder's Jacobian at every datum.

    Args:
        encoder: maps (B, ...) data to (B, ...) latents, each datum for itself.
        x: (N, ...) data of n dimensions; costs n forward derivatives.

    Returns:
        (N, min(n, d)) in decreasing order.
    """
    columns = []
    for index in range(x[0].numel()):
        direction = torch.zeros_like(x).flatten(1)
        direction[:, index] = 1
        with torch.no_grad():
            column = torch.func.jvp(encoder, (x,), (direction.view_as(x),))[1]
        columns.append(column.flatten(1))
    return torch.linalg.svdvals(torch.stack(columns, dim=2))  # of (N, d, n)
