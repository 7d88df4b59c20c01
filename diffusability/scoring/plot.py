"""A figure of scores: one axis per metric, each latent space a point among the known ones."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.scoring.against import Known, known_values
from diffusability.scoring.table import Score, shown_rows

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
SMALL = 8.5  # points, 11 pixels on a page
KNOWN_COLOUR = "#b0b0b0"
BETTER = {True: "better →", False: "← better", None: ""}


class ScoreFigure(Figure):
    """A figure that a notebook shows, whichever backend is in use."""

    def _repr_png_(self) -> bytes:
        """Return the picture."""
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=100)
        return picture.getvalue()


def scores_svg(scores: Sequence[Score], known: Known) -> bytes:
    """Return the figure as SVG, the same bytes of the same scores."""
    drawn = io.BytesIO()
    with rc_context({"svg.hashsalt": "score", "svg.fonttype": "none"}):
        draw_scores(scores, known).savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def draw_scores(scores: Sequence[Score], known: Known | None) -> ScoreFigure:
    """Draw the shown metrics of latent spaces with their standard errors.

    Args:
        scores: of the spaces. known: drawn as grey strokes, where the metric was measured of them.
            Of a single space, metrics that the known ones do not have are left out.
    """
    by_metric: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for score in scores:
        for _, short, m in shown_rows(score):
            by_metric.setdefault((short, str(m["metric"])), {})[score.name] = m
    omitted: list[str] = []
    if known is not None:
        compared = {
            name: found
            for name, found in by_metric.items()
            if len(found) > 1 or any(_compared(known, m) for m in found.values())
        }
        omitted = [short for short, metric in by_metric if (short, metric) not in compared]
        by_metric = compared or by_metric
    height = 0.42 * len(by_metric) + 0.8
    figure = ScoreFigure(figsize=(7, height), layout="constrained")
    colours = {score.name: COLOURS[k % len(COLOURS)] for k, score in enumerate(scores)}
    axes = figure.subplots(max(1, len(by_metric)), 1, squeeze=False)[:, 0]
    for axis, ((short, _), found) in zip(axes, by_metric.items(), strict=False):
        _draw_metric(axis, short, found, colours, known)
    handles = [axes[0].plot([], [], "o", color=c, label=n)[0] for n, c in colours.items()]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=4, fontsize=SMALL, frameon=False
    )
    if known is not None:
        about = [f"grey: {known.about}", "open: not measured as they were"]
        if compared and omitted:
            about.append(f"not drawn, as they were not measured so: {', '.join(omitted)}")
        figure.supxlabel("; ".join(about), fontsize=SMALL, wrap=True)
    return figure


def _compared(known: Known, m: Mapping[str, Any]) -> bool:
    """Return whether a value can be compared with known ones."""
    return not known_values(known, m)[0].empty


def _draw_metric(
    axis: Axes,
    short: str,
    found: Mapping[str, Mapping[str, Any]],
    colours: Mapping[str, str],
    known: Known | None,
) -> None:
    """Draw one metric of all spaces that have it."""
    first = next(iter(found.values()))
    alike = {name for name, m in found.items() if known is not None and _compared(known, m)}
    if known is not None and alike:
        values, _ = known_values(known, next(m for name, m in found.items() if name in alike))
        axis.plot(values, [0] * len(values), "|", color=KNOWN_COLOUR, markersize=12)
    for name, m in found.items():
        axis.errorbar(
            [m["value"]],
            [0],
            xerr=[m["stderr"] or 0],
            fmt="o",
            color=colours[name],
            markerfacecolor=colours[name] if known is None or name in alike else "white",
            markersize=6,
        )
    axis.margins(x=0.06)
    axis.set_ylim(-1, 1)
    axis.set_yticks([0], [short])
    axis.tick_params(labelsize=SMALL)
    axis.tick_params(axis="y", length=0)
    axis.spines[["left", "top", "right"]].set_visible(False)
    axis.text(
        1.01, 0.5, BETTER[first["higher_is_better"]], transform=axis.transAxes, fontsize=SMALL
    )
