"""Quadrature: composite Gauss-Legendre on a line, a lattice for normals in few dimensions."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

ORDER = 16  # nodes a panel: a panel of two standard deviations is exact to rounding
REACH = 9.0  # standard deviations; the normal mass beyond is 2e-19


def panel_rule(edges: list[float], width: float) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of composite Gauss-Legendre quadrature.

    Args:
        edges: increasing ends of the pieces; an integrand may have kinks or jumps there.
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


def normal_lattice(dim: int, step: float) -> tuple[Tensor, Tensor]:
    """Return the trapezoid rule for expectations under N(0, I), cut off at radius 9.

    For integrands that are analytic within d of the real space the error is e^(-2 pi d / step):
    a posterior that switches sharply needs many nodes, of any rule, and here they are even.

    Args:
        dim: dimensions.
        step: distance of nodes, in standard deviations.

    Returns:
        Nodes (Q, dim) and weights (Q,) summing to 1, float64.
    """
    side = math.ceil(REACH / step)
    axis = torch.arange(-side, side + 1, dtype=torch.float64) * step
    nodes = torch.cartesian_prod(*[axis] * dim).view(-1, dim)
    square = nodes.square().sum(1)
    inside = square <= REACH**2
    weights = torch.exp(-square[inside] / 2)
    return nodes[inside], weights / weights.sum()
