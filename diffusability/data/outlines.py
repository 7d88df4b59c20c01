"""The twelve outlines of the shapes dataset, and their signed distances on a fine grid."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Loop = NDArray[np.float64]  # (K, 2) corners x, y of a closed polygon, inside the unit disc
SIDE = 256  # cells of a distance table along one side, over -EXTENT ... EXTENT
EXTENT = 1.5  # of the table, in units of the outline's radius
STEPS = 4096  # distance levels per unit: the table is integer, so all machines agree on it


def _regular(corners: int, start: float = 90.0, radius: float = 1.0) -> Loop:
    angles = np.deg2rad(start + 360.0 * np.arange(corners) / corners)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _corners(*points: tuple[float, float]) -> Loop:
    return np.array(points, dtype=np.float64)


def _star(points: int, inner: float) -> Loop:
    loop = _regular(2 * points)
    loop[1::2] *= inner
    return loop


def _crescent() -> Loop:
    outer = np.deg2rad(np.linspace(40, 320, 49))
    inner = np.deg2rad(np.linspace(305, 55, 49))
    bite = np.stack([0.38 + 0.80 * np.cos(inner), 0.80 * np.sin(inner)], axis=1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), bite])


def _heart() -> Loop:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, y + 2.5], axis=1) / 17.0


def _cross(arm: float) -> Loop:
    a = arm
    return _corners(
        (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a),
        (-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a),
    )  # fmt: skip


# name to loops; what lies inside an odd number of loops is foreground
OUTLINES: dict[str, tuple[Loop, ...]] = {
    "disc": (_regular(64),),
    "ring": (_regular(64), _regular(64, radius=0.55)),
    "triangle": (_regular(3),),
    "square": (_regular(4, start=45.0),),
    "bar": (_corners((1, 0.28), (-1, 0.28), (-1, -0.28), (1, -0.28)),),
    "cross": (_cross(0.3),),
    "star": (_star(5, inner=0.42),),
    "crescent": (_crescent(),),
    "heart": (_heart(),),
    "arrow": (
        _corners((0, 1), (-0.8, 0.1), (-0.3, 0.1), (-0.3, -1), (0.3, -1), (0.3, 0.1), (0.8, 0.1)),
    ),
    "elbow": (
        _corners((-0.8, 0.9), (-0.8, -0.9), (0.8, -0.9), (0.8, -0.3), (-0.2, -0.3), (-0.2, 0.9)),
    ),
    "hourglass": (
        _corners((0.8, 0.9), (-0.8, 0.9), (-0.12, 0), (-0.8, -0.9), (0.8, -0.9), (0.12, 0)),
    ),
}


def signed_distance(loops: tuple[Loop, ...], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of points (P, 2) to the nearest edge, (P,); negative inside."""
    x, y = np.ascontiguousarray(points.T)  # (P,) each
    nearest = np.full(len(points), np.inf)  # squared
    inside = np.zeros(len(points), dtype=bool)
    for loop in loops:
        for start, end in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            edge = end - start
            right, up = x - start[0], y - start[1]  # (P,) from the edge's start
            along = np.clip((right * edge[0] + up * edge[1]) / (edge**2).sum(), 0, 1)
            gap = (right - along * edge[0]) ** 2 + (up - along * edge[1]) ** 2
            nearest = np.minimum(nearest, gap)
            spans = (start[1] > y) != (end[1] > y)  # the edge crosses the point's height
            if spans.any():
                inside ^= spans & (x < start[0] + up / edge[1] * edge[0])
    return np.where(inside, -1, 1) * np.sqrt(nearest)


@cache
def distance_tables() -> NDArray[np.int16]:
    """Return the signed distances of all outlines, (12, SIDE, SIDE), in 1 / STEPS radii.

    Cell [k, i, j] is centred at y = centre(i), x = centre(j) with centres evenly over -EXTENT ...
    EXTENT.
    """
    centres = (np.arange(SIDE) + 0.5) / SIDE * 2 * EXTENT - EXTENT
    y, x = np.meshgrid(centres, centres, indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    tables = [signed_distance(loops, points) for loops in OUTLINES.values()]
    return np.round(np.stack(tables) * STEPS).astype(np.int16).reshape(-1, SIDE, SIDE)
