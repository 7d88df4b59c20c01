"""The metric that the answer of the study is about, against generation quality."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.answer import Answer, Turned, answer
from diffusability.analysis.catalogue import name_metric
from diffusability.analysis.failed import failed_tokenizers
from diffusability.analysis.panels import paired
from diffusability.figures.panels import (
    MARKER,
    add_legend,
    draw_fit,
    draw_levels,
    draw_points,
    label_metric,
    panel_grid,
    sentence_figure,
    set_title,
    wrapped,
)
from diffusability.figures.results import Results
from diffusability.figures.style import HALF, PHONE, QUIET, TEXT


def draw_strongest(results: Results) -> Figure:
    """Return the scatter of the metric that the answer of the study is about.

    The best, the worst, and the most influential tokenizer are named.
    """
    return _draw(results, HALF)


def draw_strongest_narrow(results: Results) -> Figure:
    """Return the same for a phone."""
    return _draw(results, PHONE)


def _draw(results: Results, width: float) -> Figure:
    if "correlations" not in results.last:
        return sentence_figure("correlations were not measured in this study")
    found = answer(results.last, results.target)
    first = found.strongest
    if first is None:
        return sentence_figure(f"{results.target} was not measured with enough tokenizers")
    panel = first.panel
    rows = paired(results.indexed, first.metric, panel, first.family).rows
    if rows.empty:
        return sentence_figure(f"{first.metric} was not measured with {results.target}")
    left = 0.6
    size = (width - left - 0.1, min(2.7, width))
    figure, axes = panel_grid(1, 1, panel=size, gap=(0, 1), left=left, narrowest=width)
    axis = axes[0, 0]
    draw_points(axis, rows, results, failed_tokenizers(results.indexed, panel, first.family))
    draw_fit(axis, rows, first.known)
    draw_levels(axis, results, first.metric)
    axis.set_xlabel(label_metric(results, first.short, first.metric))
    axis.set_ylabel(label_metric(results, name_metric(results.target), results.target))
    named = _named(found, first)
    for row in rows[rows["tokenizer"].isin(list(named))].to_dict("records"):
        name = str(row["tokenizer"])
        between = " " if width == HALF else "\n"
        _name(axis, rows, (float(row["x"]), float(row["y"])), f"{name}{between}({named[name]})")
    count = f"{len(rows)} tokenizers in {rows['cluster'].nunique()} clusters"
    axis.set_title(
        wrapped(axis, f"{first.interval}, {count}") + f"\n{first.panel.backbone}, {first.family}"
    )
    doubt = "Clearest correlation" if first.known else "Largest correlation"
    head = "Settled correlation" if found.decided else f"{doubt}, not settled"
    set_title(figure, f"{head}: {first.perspective} ({first.short})")
    add_legend(figure, results, key=False)
    return figure


def _named(found: Answer, first: Turned) -> dict[str, str]:
    """Return the tokenizers to name, and why."""
    words: dict[str, list[str]] = {}
    for name, why in (
        (found.best, "best"),
        (found.worst, "worst"),
        (str(first.row["influential"] or ""), "moves r most"),
    ):
        if name:
            words.setdefault(name, []).append(why)
    return {name: ", ".join(whys) for name, whys in words.items()}


def _name(axis: Axes, rows: pd.DataFrame, at: tuple[float, float], text: str) -> None:
    """Write a name beside a point: on the side with more room, where it covers fewest points."""
    right = at[0] < sum(axis.get_xlim()) / 2
    points = axis.transData.transform(rows[["x", "y"]].to_numpy(float))
    label = axis.annotate(
        text, at, xytext=(0, 0), textcoords="offset points", fontsize=TEXT, color=QUIET
    )
    label.set_horizontalalignment("left" if right else "right")
    covered: list[tuple[int, int, float]] = []
    for up in (4, -4 - TEXT, 4 + TEXT, -4 - 2 * TEXT):
        label.set_position((6 if right else -6, up))
        box = label.get_window_extent().padded(2 * MARKER)
        outside = axis.bbox.y0 > box.y0 or axis.bbox.y1 < box.y1
        covered.append((box.count_contains(points) + outside, len(covered), up))
    label.set_position((6 if right else -6, min(covered)[-1]))
