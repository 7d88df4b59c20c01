"""A normal variable wrapped on a circle of radius R: the curved factor of the cylinder."""

import math

import torch
from torch import Tensor

from diffusability.fisher.information import FisherInformation
from diffusability.fisher.oracle import Oracle, posterior_information
from diffusability.fisher.quadrature import REACH, normal_rule, panel_rule

_EXPONENT = 80.0  # e^-80 is nothing, even where the normal density gains e^20 on the way
_BATCH_BYTES = 2**22  # what fits a processor's cache


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
        """Return (Q,) bool: nodes whose kernel is not zero to rounding at some of the points."""
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
        keep = weights > 1e-18 * weights.sum()  # where the density underflows there is no posterior
        return posterior_information(covariance[keep], weights[keep] / weights[keep].sum(), v)
