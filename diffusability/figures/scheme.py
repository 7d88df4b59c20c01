"""What each perspective asks of a latent space, as a sketch (Fig. 1 of the first paper)."""

import textwrap
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from diffusability.figures.panels import sentence_figure, set_title, wrapped_grid
from diffusability.figures.results import Results
from diffusability.figures.style import PALETTE, QUIET, TEXT
from diffusability.study.metrics.groups import METRIC_GROUPS

BLUE, ORANGE, GREEN = PALETTE[0], PALETTE[1], PALETTE[2]
COLUMNS = 4
LINE = 34  # characters of a sentence under a sketch


def draw_scheme(results: Results) -> Figure:
    """Return a sketch per perspective that the study measures, with its question."""
    groups = [
        group
        for group in METRIC_GROUPS.values()
        if group.title and any(results.measured(of) for of in group.shows.values())
    ]
    if not groups:
        return sentence_figure("no metric of any perspective was measured in this study")
    figure, axes = wrapped_grid(len(groups), COLUMNS, panel=(2.0, 1.15), gap=(0.2, 0.95), left=0.1)
    for axis, group in zip(axes.flat, groups, strict=False):
        axis.set(xlim=(0, 2), ylim=(0, 1), xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(visible=True, edgecolor="0.85")
        axis.set_title(group.title, fontweight="bold")
        axis.set_xlabel(textwrap.fill(group.about, LINE))
        if group.title in SKETCHES:
            SKETCHES[group.title](axis)
    set_title(figure, "What each perspective measures of a latent space")
    return figure


def _write(axis: Axes, x: float, y: float, text: str) -> None:
    axis.text(x, y, text, ha="center", va="center", fontsize=TEXT - 1, color=QUIET)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=style)


def _velocity(axis: Axes) -> None:
    """Two straight paths from noise to latents cross: one point, two velocities."""
    for y, end, colour in ((0.8, 0.25, BLUE), (0.25, 0.8, ORANGE)):
        axis.plot([0.3, 1.7], [y, end], color=colour, linewidth=0.9, alpha=0.6)
        axis.plot([0.3, 1.7], [y, end], "o", color=colour, markersize=4)
        _arrow(axis, (1.0, 0.525), (1.32, 0.525 + 0.32 * (end - y) / 1.4), colour)
    axis.plot(1.0, 0.525, "o", color="white", markeredgecolor="0.15", markersize=6)
    _write(axis, 0.3, 0.08, "noise")
    _write(axis, 1.7, 0.08, "latents")
    _write(axis, 1.0, 0.85, "one point, two velocities")


def _semantics(axis: Axes) -> None:
    """Three classes; a latent and its nearest neighbours."""
    rng = np.random.default_rng(1)
    for (x, y), colour in zip(((0.45, 0.6), (1.1, 0.35), (1.6, 0.72)), PALETTE, strict=False):
        points = np.array((x, y)) + rng.normal(scale=(0.14, 0.11), size=(14, 2))
        axis.plot(*points.T, "o", color=colour, markersize=3, alpha=0.8)
        if colour == BLUE:
            centre = points[((points - (x, y)) ** 2).sum(axis=1).argmin()]
            near = np.argsort(((points - centre) ** 2).sum(axis=1))[1:6]
            for other in points[near]:
                axis.plot(*np.transpose([centre, other]), color="0.15", linewidth=0.7)


def _spatial(axis: Axes) -> None:
    """A grid of cells in which an object's cells resemble each other."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:6, 0:12]
    inside = (x - 5.5) ** 2 / 9 + (y - 2.5) ** 2 / 4 < 1
    cells = np.where(inside, 0.75, 0.2) + 0.05 * rng.normal(size=inside.shape)
    axis.imshow(cells, extent=(0.35, 1.65, 0.08, 0.92), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set(xlim=(0, 2), ylim=(0, 1))


def _smoothness(axis: Axes) -> None:
    """Power against frequency, of a smooth and of a rough latent."""
    f = np.linspace(0.15, 1.85, 50)
    # SEC counts the power above a quarter of the frequencies
    axis.add_patch(Rectangle((0.575, 0), 1.275, 1, color="0.93"))
    axis.plot(f, 0.15 + 0.7 * np.exp(-2.2 * (f - 0.15)), color=BLUE, linewidth=1.2)
    axis.plot(f, 0.62 - 0.12 * f, color=ORANGE, linewidth=1.2)
    _write(axis, 0.8, 0.2, "smooth")
    _write(axis, 0.85, 0.64, "rough")
    _write(axis, 1.21, 0.92, "fine detail")
    _write(axis, 1.0, 0.05, "frequency")


def _continuity(axis: Axes) -> None:
    """Between two latents of a curved set, the middle may lie outside it."""
    t = np.linspace(0.1 * np.pi, 0.9 * np.pi, 60)
    x, y = 1 + 0.85 * np.cos(t), 0.12 + 0.75 * np.sin(t)
    axis.plot(x, y, color="0.75", linewidth=7, solid_capstyle="round")
    ends = np.array([[x[5], y[5]], [x[-18], y[-18]]])
    axis.plot(*ends.T, "o--", color=BLUE, markersize=4.5, linewidth=0.9)
    axis.plot(*ends.mean(axis=0), "X", color=ORANGE, markersize=6)
    _write(axis, 1.0, 0.12, "is the middle still an image?")


def _uniformity(axis: Axes) -> None:
    """Latents that fill their space evenly, and latents that crowd."""
    rng = np.random.default_rng(2)
    x, y = np.meshgrid(np.linspace(0.15, 0.85, 7), np.linspace(0.28, 0.92, 5))
    axis.plot(*(np.stack([x, y]) + rng.normal(scale=0.025, size=(2, 5, 7))).reshape(2, -1), "o")
    spots = np.repeat([(1.3, 0.75), (1.7, 0.45)], 17, axis=0)
    axis.plot(*(spots + rng.normal(scale=(0.07, 0.06), size=spots.shape)).T, "o")
    for line, colour in zip(axis.lines, (BLUE, ORANGE), strict=True):
        line.set(color=colour, markersize=2.6)
    _write(axis, 0.5, 0.1, "even")
    _write(axis, 1.5, 0.1, "crowded")


def _equivariance(axis: Axes) -> None:
    """A shape that is turned before and after encoding."""
    flag = np.array([(0, 0), (0, 1), (0.6, 0.78), (0, 0.56)])
    turned = np.column_stack([flag[:, 1], 0.6 - flag[:, 0]])
    for shape, x, y, colour in (
        (flag, 0.2, 0.58, "0.35"),
        (turned, 0.15, 0.1, "0.35"),
        (flag, 1.5, 0.58, BLUE),
        (turned, 1.45, 0.1, BLUE),
    ):
        corners = (x, y) + shape * (0.3, 0.34)
        axis.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor=colour))
    for y in (0.74, 0.22):
        _arrow(axis, (0.65, y), (1.3, y), "0.5")
        _write(axis, 0.97, y + 0.08, "encode")
    for x in (0.3, 1.6):
        _arrow(axis, (x, 0.53), (x, 0.34), "0.5")
    _write(axis, 0.62, 0.46, "turn")


def _fisher(axis: Axes) -> None:
    """A density and its noised copies: how fast its slope of log density fades."""
    x = np.linspace(0, 2, 200)
    for width, colour in ((0.09, "#9ecae1"), (0.16, "#4292c6"), (0.3, "#08519c")):
        density = sum(np.exp(-((x - c) ** 2) / (2 * width**2)) for c in (0.65, 1.35))
        axis.plot(x, 0.2 + 0.072 / width * density, color=colour, linewidth=1.2)
    _write(axis, 1.0, 0.08, "what remains of the shape as noise grows?")


SKETCHES: dict[str, Callable[[Axes], None]] = {
    "velocity ambiguity": _velocity,
    "semantic separability": _semantics,
    "spatial structure": _spatial,
    "spectral smoothness": _smoothness,
    "manifold continuity": _continuity,
    "distribution uniformity": _uniformity,
    "affine equivariance": _equivariance,
    "Fisher geometry": _fisher,
}
