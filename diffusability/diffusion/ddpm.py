"""The variance-preserving process with a linear schedule (arXiv 2006.11239), step by step."""

import torch
from torch import Tensor


def linear_alpha_bars(steps: int, *, low: float = 1e-4, high: float = 0.02) -> Tensor:
    """Return the signal power abar after each step, x_t = sqrt(abar) x + sqrt(1 - abar) z.

    Args:
        steps: T.
        low, high: variance added in the first and in the last step.

    Returns:
        (T,) float64, decreasing in (0, 1).
    """
    return torch.cumprod(1 - torch.linspace(low, high, steps, dtype=torch.float64), dim=0)
