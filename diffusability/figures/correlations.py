"""Correlation of the metrics of every perspective with generation quality, with intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusability.analysis.catalogue import PERSPECTIVES, REPRESENTATIVES
from diffusability.analysis.correlation import meaningless, turned
from diffusability.figures.panels import (
    annotate_empty,
    legend_below,
    lowest,
    sentence_figure,
    set_title,
    wrapped,
    wrapped_grid,
)
from diffusability.figures.perspectives import every_scope
from diffusability.figures.results import Results, Scope, guidance_scales
from diffusability.figures.style import HALF, MEANINGLESS, PAGE, PHONE, QUIET, TEXT
from diffusability.study.planning.tables import BEST

FILLED, OPEN = "#0072B2", "#D55E00"
OFFSET = 0.17  # rows between the marks of one metric
ROW = 0.27  # inches per metric
NARROW, WIDE = 1.3, 2.2  # inches, width of a panel
LEFT = {PAGE: 1.1, HALF: 1.3, PHONE: 1.3}  # inches, room for the names of the metrics
# the metric that represents each perspective
_REPRESENTED = {
    title: {short: of for short, of in metrics.items() if short in REPRESENTATIVES}
    for title, metrics in PERSPECTIVES.items()
}


def draw_correlations(results: Results) -> Figure:
    """Return a panel per backbone and family: turned r of each perspective's metric.

    Half as wide as the page. Positive: a better value, as the metric declares, means better images.
    """
    return _draw(results, _REPRESENTED, HALF)


def draw_correlations_narrow(results: Results) -> Figure:
    """Return the same for a phone: one panel under the other."""
    return _draw(results, _REPRESENTED, PHONE)


def draw_all_metrics(results: Results) -> Figure:
    """Return the same for every metric of each perspective, as wide as the page."""
    return _draw(results, PERSPECTIVES, PAGE)


def _draw(results: Results, shown: Mapping[str, Mapping[str, str]], width: float) -> Figure:
    scopes = every_scope(results, results.target)
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    correlations = results.tables.get("correlations", pd.DataFrame({"family": results.families}))
    known = {scopes[0].family, *correlations["family"]}  # others are too small to be correlated
    scopes = [scope for scope in scopes if scope.family in known]
    positions = _positions(results, shown)
    if not positions:
        return sentence_figure("no metric of any perspective was measured in this study")
    height = ROW * (max(positions.values()) + 1)
    left, gap = LEFT[width], 0.15
    columns = min(len(scopes), max(1, int((width - left + gap) / (NARROW + gap))))
    panel = min(WIDE, (width - left - gap * (columns - 1)) / columns)
    size = (panel, height)
    figure, axes = wrapped_grid(
        len(scopes), columns, panel=size, gap=(gap, 0.6), left=left, foot=0.1, narrowest=width
    )
    for axis, scope in zip(axes.flat, scopes, strict=False):
        _draw_panel(axis, results, scope, positions)
    for line in axes:
        _label_rows(line[0], results, positions, shown)
    set_title(figure, "Correlation of each perspective's metric with image quality")
    for axis in lowest(axes):
        axis.set_xlabel(wrapped(axis, "r (positive: in the expected direction)"))
    guided = any(len(guidance_scales(results, s.target, s.backbone)) > 1 for s in scopes)
    _legend(figure, guided, width == PAGE)
    return figure


def _positions(
    results: Results, shown: Mapping[str, Mapping[str, str]]
) -> dict[tuple[str, str], float]:
    """Return the row of each measured metric (short name, pattern): perspectives are set apart."""
    apart = 0.4 if any(len(metrics) > 1 for metrics in shown.values()) else 0.0
    positions, row = {}, 0.0
    for metrics in shown.values():
        measured = [item for item in metrics.items() if results.measured(item[1])]
        for item in measured:
            positions[item] = row
            row += 1
        row += apart * bool(measured)
    return positions


def _draw_panel(
    axis: Axes, results: Results, scope: Scope, positions: dict[tuple[str, str], float]
) -> None:
    guided = len(guidance_scales(results, scope.target, scope.backbone)) > 1
    axis.axvline(0, color="0.7", linewidth=0.8)
    axis.set_xlim(-1.05, 1.05)
    axis.set_ylim(max(positions.values()) + 0.6, -0.6)
    axis.set_xticks([-1, -0.5, 0, 0.5, 1], ["\N{MINUS SIGN}1", "", "0", "", "1"])
    axis.set_yticks([])
    marks = 0
    for (short, pattern), row in positions.items():
        name = results.measured(pattern)
        for guidance, colour, shift in ((scope.guidance, FILLED, -1), (BEST, OPEN, 1)):
            if guidance == BEST and not guided:
                continue
            found = results.statistic(
                "correlations",
                "pearson",
                **{"target": scope.target, "backbone": scope.backbone, "guidance": guidance},
                **{"family": scope.family, "metric": name},
            )
            height = row + (shift * OFFSET if guided else 0)
            if found is None or pd.isna(found["value"]):
                axis.text(
                    0, height, "no r", ha="center", va="center", fontsize=TEXT - 1, color=QUIET
                )
                continue
            _draw_mark(axis, height, found, colour, guidance == BEST, short)
            marks += 1
    if not marks:
        for artist in (*axis.texts, *axis.lines):
            artist.remove()
        annotate_empty(axis, "no correlation can be computed here; the table correlations says why")
    n = int((results.measurements.drop_duplicates("tokenizer")["family"] == scope.family).sum())
    axis.set_title(f"{scope.backbone}\n{scope.family}, {n} tokenizers")


def _draw_mark(
    axis: Axes, height: float, row: Mapping[str, Any], colour: str, best: bool, short: str
) -> None:
    """Draw sign-oriented r and its interval; in grey if it says nothing."""
    r, low, high = turned(row)
    colour = MEANINGLESS if meaningless(row) else colour
    if np.isfinite((low, high)).all():
        axis.hlines(height, low, high, color=colour, linewidth=1.6, alpha=0.55)
    axis.plot(
        r,
        height,
        "D" if best else "o",
        color=colour,
        markerfacecolor="white" if best else colour,
        markersize=3.5,
        markeredgewidth=0.9,
        label=f"{short}, {'best' if best else 'smallest'} guidance",
    )


def _label_rows(
    axis: Axes,
    results: Results,
    positions: dict[tuple[str, str], float],
    shown: Mapping[str, Mapping[str, str]],
) -> None:
    """Name the metrics; a perspective with one metric is named too."""
    words = {short: title for title, metrics in shown.items() for short in metrics}
    alone = all(len(metrics) < 2 for metrics in shown.values())
    names = [
        (f"{words[short]}\n({short})" if alone else short)
        + ("" if _declared(results, pattern) else "°")
        for short, pattern in positions
    ]
    axis.set_yticks(list(positions.values()), names)
    for label, (short, _) in zip(axis.get_yticklabels(), positions, strict=True):
        label.set_fontweight("bold" if short in REPRESENTATIVES and not alone else "normal")
        label.set_fontsize(TEXT)


def _declared(results: Results, pattern: str) -> bool:
    rows = results.measurements.loc[results.measurements["metric"] == results.measured(pattern)]
    return rows.empty or bool(rows["higher_is_better"].notna().all())


def _legend(figure: Figure, guided: bool, every: bool) -> None:
    first = "at the smallest guidance scale" if guided else "r and its interval"
    handles = {first: Line2D([], [], color=FILLED, marker="o")}
    if guided:
        best = Line2D([], [], color=OPEN, marker="D", markerfacecolor="white")
        handles["at the best guidance scale of each"] = best
    for handle in handles.values():
        handle.set(markersize=3.5, linewidth=1.6)
    legend_below(
        figure,
        handles,
        3 if every else 2 if figure.get_size_inches()[0] > 3 else 1,
        title="bold: represents its perspective   °: no declared direction" if every else None,
        title_fontsize=TEXT - 0.5,
    )
