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
