"""Labels of points, placed without overlap."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from diffusability.figures.panels import panel_size

SIZE = 6.0  # points, height of the type
_CHARACTER = (0.64 * SIZE, 0.8 * SIZE)  # points, width and height of a digit
_PADDING = 0.8  # points, between names
RADIUS = 2.4  # points, of a marker
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def number_points(
    axis: Axes,
    x: ArrayLike,
    y: ArrayLike,
    names: Sequence[str],
    radius: ArrayLike = RADIUS,
    beside: ArrayLike = (),
) -> None:
    """Write a short name next to each point of a panel whose size and limits are final.

    Each name takes the first of eight positions around its point that is inside the panel and
    touches neither a point nor a name; if there is none, the name is omitted.

    Args:
        axis: the panel. x, y: (N,) coordinates. names: (N,) texts.
        radius: of the markers in points, one or (N,).
        beside: (M, 2) coordinates of further markers to avoid.
    """
    if not names:
        return
    axis.autoscale_view()  # the limits that drawing would set
    size = 72 * panel_size(axis)
    positions = np.vstack([np.column_stack([x, y]), np.reshape(beside, (-1, 2))])
    positions = axis.transAxes.inverted().transform(axis.transData.transform(positions))
    points = positions * size  # (N + M, 2) in points from the lower left corner
    radii = np.full(len(points), RADIUS)
    radii[: len(names)] = radius
    taken = np.empty((0, 4))  # left, bottom, right, top of names
    for point, name, own in zip(points, names, radii, strict=False):
        extent = np.array([_CHARACTER[0] * len(name) + _PADDING, _CHARACTER[1]])
        for direction in _DIRECTIONS:
            reach = own + 0.8 + extent / 2
            diagonal = 0.8 if all(direction) else 1.0
            centre = point + np.array(direction) * reach * diagonal
            box = np.concatenate([centre - extent / 2, centre + extent / 2])
            if _free(box, points, radii, taken, size):
                taken = np.vstack([taken, box])
                axis.text(
                    centre[0] / size[0],
                    centre[1] / size[1],
                    name,
                    transform=axis.transAxes,
                    ha="center",
                    va="center_baseline",
                    fontsize=SIZE,
                    color="0.2",
                )
                break


def number_ends(axis: Axes, y: ArrayLike, names: Sequence[str]) -> None:
    """Write a short name right of a panel for each curve that ends on its right edge at y.

    Names keep the order of the ends and are spread until none overlap, in as many columns as
    needed; a thin line connects each to its curve.
    """
    axis.autoscale_view()
    width, height = 72 * panel_size(axis)
    step = _CHARACTER[1] * 1.15 / height
    low, high = axis.get_ylim()
    ends = (np.asarray(y, float) - low) / (high - low)
    columns = max(1, -(-len(ends) // int(1 / step)))
    ranked = np.argsort(ends, kind="stable")
    for column in range(columns):
        own = ranked[column::columns]
        left = 1 + (6 + 11 * column) / width
        for index, height_of in zip(own, _spread(ends[own], step), strict=True):
            axis.plot(
                (1, left - 1 / width),
                (ends[index], height_of),
                transform=axis.transAxes,
                clip_on=False,
                color="0.75",
                linewidth=0.3,
            )
            axis.text(
                left,
                height_of,
                names[index],
                transform=axis.transAxes,
                va="center_baseline",
                fontsize=SIZE,
                color="0.2",
            )


def _spread(wanted: np.ndarray, step: float) -> np.ndarray:
    """Move ascending positions apart to at least one step, below 1 if they fit."""
    positions = wanted.copy()
    for k in range(1, len(positions)):
        positions[k] = max(positions[k], positions[k - 1] + step)
    positions[-1:] = np.minimum(positions[-1:], 1)
    for k in range(len(positions) - 2, -1, -1):
        positions[k] = min(positions[k], positions[k + 1] - step)
    return positions


def _free(
    box: np.ndarray, points: np.ndarray, radii: np.ndarray, taken: np.ndarray, size: np.ndarray
) -> bool:
    """Return whether a box is inside the panel and touches no marker and no other box."""
    if (box[:2] < 0).any() or (box[2:] > size).any():
        return False
    nearest = np.clip(points, box[:2], box[2:])
    if (np.hypot(*(points - nearest).T) < radii).any():
        return False
    apart = (taken[:, :2] >= box[2:]) | (taken[:, 2:] <= box[:2])
    return bool(apart.any(axis=1).all())
