"""Networks as after training, and seeded numbers to put into them."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return float64 standard normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def woken(model: Network) -> Network:
    """Return the network in float64 with none of its weights zero."""
    model = model.double()
    with torch.no_grad():
        for k, weight in enumerate(model.parameters()):
            weight += 0.1 * draw(tuple(weight.shape), 100 + k)
    return model
