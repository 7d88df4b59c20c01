"""The distributions of the toy study, as exact oracles."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusability.fisher.gaussian import Gaussian, standard_normal
from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import (
    REACH,
    Oracle,
    Product,
    Subspace,
    normal_rule,
    panel_rule,
    posterior_information,
)
from diffusability.study.fisher_toy import INTRINSIC_DIM, ToyDistribution

_EXPONENT = 80.0  # e^-80 is negligible, even where the normal density grows by e^20
_BATCH_BYTES = 2**22  # fits a processor's cache


class Arc(Oracle):
    """(R sin(x / R), R cos(x / R)) in the plane, x ~ N(0, 1): arc length keeps distances.

    Args:
        radius: R, positive, in data units.
    """

    dim = 2

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, 2) draws."""
        x = torch.randn(count, generator=generator, dtype=torch.float64) / self.radius
        return self.radius * torch.stack((x.sin(), x.cos()), dim=1)

    def _local(self, r: Tensor, angle: Tensor, v: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return density, mean and covariance in the frame (outward, along) at polar points.

        Args:
            r: (B,) distances from the centre.
            angle: (B,) angles from the second axis.
            v: noise variance.

        Returns:
            (B,) density up to a factor; (B, 2) mean of x relative to y; (B, 2, 2) covariance.
        """
        every_node, every_weight = normal_rule((), min(2.0, 2 * math.sqrt(v)))
        found = []
        step = max(1, _BATCH_BYTES // (8 * len(every_node)))
        for radius, theta in zip(r.split(step), angle.split(step), strict=True):
            near = self._within_reach(every_node, radius, theta, v)
            nodes, weights = every_node[near], every_weight[near]
            turn = nodes / self.radius - theta[:, None]  # (b, Q)
            sagitta = 2 * self.radius * torch.sin(turn / 2).square()  # (b, Q), R (1 - cos)
            along = self.radius * torch.sin(turn)  # (b, Q)
            gap = self.radius - radius  # (b,)
            # |x - y|^2 = (R - r)^2 + 2 r R (1 - cos turn)
            square = gap[:, None].square() + 2 * radius[:, None] * sagitta
            kernel = weights * torch.exp(-square / (2 * v))
            mass = kernel.sum(1)
            share = kernel / mass[:, None]
            depth, shift = (share * sagitta).sum(1), (share * along).sum(1)
            u, w = depth[:, None] - sagitta, along - shift[:, None]  # (b, Q) centred
            cross = (share * u * w).sum(1)
            entries = ((share * u.square()).sum(1), cross, cross, (share * w.square()).sum(1))
            mean = torch.stack((gap - depth, shift), dim=1)
            found.append((mass, mean, torch.stack(entries, dim=1).view(-1, 2, 2)))
        mass, mean, covariance = (torch.cat(part) for part in zip(*found, strict=True))
        return mass, mean, covariance

    def _within_reach(self, nodes: Tensor, r: Tensor, angle: Tensor, v: float) -> Tensor:
        """Return (Q,) bool: whether a node's kernel is non-negligible at any of the points."""
        share = _EXPONENT * v / (2 * self.radius * float(r.min()))  # sin^2 of half the angle
        if share >= 0.5:  # more than a quarter turn on either side
            return torch.ones(len(nodes), dtype=torch.bool)
        middle = (angle.min() + angle.max()) / 2
        reach = 2 * math.asin(math.sqrt(share)) + float(angle.max() - angle.min()) / 2
        turn = torch.remainder(nodes / self.radius - middle + math.pi, 2 * math.pi) - math.pi
        return turn.abs() <= reach

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, 2) and covariance (B, 2, 2) of x given y."""
        angle = torch.atan2(y[:, 0], y[:, 1])  # (B,)
        _, mean, covariance = self._local(y.norm(dim=1), angle, v)
        outward = torch.stack((angle.sin(), angle.cos()), dim=1)
        along = torch.stack((angle.cos(), -angle.sin()), dim=1)
        frame = torch.stack((outward, along), dim=2)  # (B, 2, 2), columns
        turned = torch.einsum("bij,bj->bi", frame, mean)
        return y + turned, frame @ covariance @ frame.mT

    def information(self, v: float) -> FisherInformation:
        """Return the information by quadrature over polar coordinates of y."""
        spread, R = math.sqrt(v), self.radius
        r, radial = panel_rule([max(0.0, R - REACH * spread), R + REACH * spread], 3 * spread)
        reach = min(math.pi, (REACH + REACH * spread) / R)
        # the density is even in the angle
        angle, angular = panel_rule([0.0, reach], 3 * spread / R)
        points = torch.cartesian_prod(angle, r)  # (Q, 2), neighbours share an angle
        weights = torch.outer(angular, radial * r).flatten()  # (Q,)
        mass, _, covariance = self._local(points[:, 1], points[:, 0], v)
        weights = weights * mass
        keep = (
            weights > 1e-18 * weights.sum()
        )  # the posterior is undefined where the density underflows
        return posterior_information(covariance[keep], weights[keep] / weights[keep].sum(), v)


class Pushforward(Oracle):
    """The distribution of f(x) on the line, x ~ N(0, 1).

    Args:
        function: f, elementwise on float64 tensors; smooth between breaks.
        breaks: points where f has a kink or a jump.
        lipschitz: largest |f'|, which sets how fine the quadrature must be.
    """

    dim = 1

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        breaks: tuple[float, ...] = (0.0,),
        lipschitz: float = 1.0,
    ) -> None:
        self.function, self.breaks, self.lipschitz = function, breaks, lipschitz

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, 1) draws."""
        return self.function(torch.randn(count, 1, generator=generator, dtype=torch.float64))

    def _rule(self, v: float) -> tuple[Tensor, Tensor]:
        """Return images (Q,) of the nodes and weights (Q,), fine enough for noise variance v."""
        nodes, weights = normal_rule(self.breaks, min(1.0, 2 * math.sqrt(v) / self.lipschitz))
        return self.function(nodes), weights

    def _moments(self, y: Tensor, v: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return p_v (up to a factor), posterior mean and variance at y (B,), each (B,)."""
        images, weights = self._rule(v)
        found = []
        for part in y.split(max(1, _BATCH_BYTES // (8 * len(images)))):
            offset = images - part[:, None]  # (b, Q); moments about y lose no digits at small v
            kernel = weights * torch.exp(-offset.square() / (2 * v))
            mass = kernel.sum(1)
            mean = (kernel * offset).sum(1) / mass
            second = (kernel * (offset - mean[:, None]).square()).sum(1) / mass
            found.append(torch.stack((mass, part + mean, second)))
        mass, mean, variance = torch.cat(found, dim=1)
        return mass, mean, variance

    def posterior(self, y: Tensor, v: float) -> tuple[Tensor, Tensor]:
        """Return mean (B, 1) and covariance (B, 1, 1) of f(x) given y, |y| within reach of f."""
        _, mean, variance = self._moments(y[:, 0], v)
        return mean[:, None], variance[:, None, None]

    def information(self, v: float) -> FisherInformation:
        """Return the information by quadrature over y."""
        images, _ = self._rule(v)
        spread = math.sqrt(v)
        low, high = float(images.min()) - REACH * spread, float(images.max()) + REACH * spread
        y, weights = panel_rule([low, high], spread)
        mass, _, variance = self._moments(y, v)
        weights = weights * mass
        return posterior_information(variance[:, None, None], weights / weights.sum(), v)


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
