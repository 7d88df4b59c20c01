"""The distributions of the toy study, as exact oracles."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusability.fisher.arc import Arc
from diffusability.fisher.gaussian import Gaussian, standard_normal
from diffusability.fisher.oracle import Oracle
from diffusability.fisher.product import Product
from diffusability.fisher.pushforward import Pushforward
from diffusability.fisher.subspace import Subspace
from diffusability.study.fisher_toy import INTRINSIC_DIM, ToyDistribution

# function, kinks, largest slope
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...], float]] = {
    "relu": (F.relu, (0.0,), 1.0),
    "gelu": (F.gelu, (), 1.13),
    "sigmoid": (torch.sigmoid, (), 0.25),
    "tanh": (torch.tanh, (), 1.0),
}


def activation_oracle(function: str, slope: float | None = None) -> Pushforward:
    """Return the distribution of one coordinate, standard normal, after an activation function.

    Args:
        function: "relu", "gelu", "sigmoid", "tanh" or "leaky".
        slope: of the negative side of "leaky"; at least 0.
    """
    if function != "leaky":
        apply, breaks, lipschitz = ACTIVATIONS[function]
        return Pushforward(apply, breaks=breaks, lipschitz=lipschitz)
    steepness = float(slope if slope is not None else 1.0)

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x < 0, steepness * x, x)

    return Pushforward(leaky, breaks=(0.0,), lipschitz=max(1.0, steepness))


def cylinder_oracle(radius: float) -> Product:
    """Return (R sin(x1 / R), R cos(x1 / R), x2) of x ~ N(0, I_2): an isometric, bent sheet."""
    return Product([Arc(radius), standard_normal(1)])


def toy_oracle(distribution: ToyDistribution) -> Oracle:
    """Return the oracle of a distribution of the toy study."""
    if distribution.kind == "activation":
        factor = activation_oracle(str(distribution.function), distribution.slope)
        return Product([factor, factor])
    if distribution.kind == "cylinder":
        return cylinder_oracle(1 / (distribution.inverse_radius or math.nan))
    variance = (1 + distribution.eps) * torch.eye(INTRINSIC_DIM, dtype=torch.float64)
    plane = Gaussian(torch.zeros(INTRINSIC_DIM), variance)
    if distribution.dim == INTRINSIC_DIM:
        return plane
    return Subspace(plane, torch.eye(distribution.dim, INTRINSIC_DIM, dtype=torch.float64))
