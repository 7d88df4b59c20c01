"""Correlation of the metrics of every perspective with generation quality, on one page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusability.analysis.catalogue import PERSPECTIVES, REPRESENTATIVES, name_metric
from diffusability.analysis.panels import predictors
from diffusability.figures.panels import (
    annotate_empty,
    legend_below,
    panel_grid,
    sentence_figure,
    set_title,
)
from diffusability.figures.results import (
    Results,
    Scope,
    backbone_scopes,
    guidance_scales,
    reference_scope,
)
from diffusability.figures.style import QUIET, TEXT
from diffusability.study.tables import BEST

FILLED, OPEN = "#0072B2", "#D55E00"
OFFSET = 0.17  # rows between the marks of one metric
ROW = 0.2  # inches per metric
WIDEST = 6  # panels side by side


def draw_correlations(results: Results) -> Figure:
    """Return a panel per backbone and family: sign-oriented r of each metric with both intervals.

    All combinations are shown if they fit on a page, else the other families with the first
    backbone only. Positive: a better value, as the metric declares, means better generation.
    """
    reference = reference_scope(results, results.target)
    if reference is None:
        return sentence_figure(f"{results.target} was not measured in this study")
    scopes = list(backbone_scopes(results, results.target))
    varied = scopes if len(scopes) * len(results.families) <= WIDEST else scopes[:1]
    correlations = results.tables.get("correlations", pd.DataFrame({"family": results.families}))
    known = set(correlations["family"]) - {reference.family}  # not of families that are too small
    others = [name for name in results.families if name in known]
    scopes += [scope.at(family=family) for family in others for scope in varied]
    positions = _positions(results)
    if not positions:
        return sentence_figure("no metric of any perspective was measured in this study")
    height = ROW * (max(positions.values()) + 1)
    figure, axes = panel_grid(1, len(scopes), panel=(1.32, height), gap=(0.15, 0.65), left=1.1)
    for axis, scope in zip(axes[0], scopes, strict=True):
        _draw_panel(axis, results, scope, positions)
    _label_rows(axes[0][0], results, positions)
    set_title(
        figure, f"What goes with {name_metric(results.target)}: r, turned so that right is good"
    )
    guided = any(len(guidance_scales(results, s.target, s.backbone)) > 1 for s in scopes)
    _legend(figure, guided, len(predictors(results.indexed)))
    return figure


def _positions(results: Results) -> dict[tuple[str, str], float]:
    """Return the row of each measured metric (short name, pattern): perspectives are set apart."""
    positions, row = {}, 0.0
    for metrics in PERSPECTIVES.values():
        measured = [item for item in metrics.items() if results.measured(item[1])]
        for item in measured:
            positions[item] = row
            row += 1
        row += 0.4 * bool(measured)
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
        annotate_empty(
            axis, "no correlation can be computed here; results/tables says why for each metric"
        )
    n = int((results.measurements.drop_duplicates("tokenizer")["family"] == scope.family).sum())
    axis.set_title(f"{scope.backbone}\n{scope.family} ({n})")


def _draw_mark(
    axis: Axes, height: float, row: Mapping[str, Any], colour: str, best: bool, short: str
) -> None:
    """Draw sign-oriented r and its interval over clusters."""
    sign = row["expected_sign"] if pd.notna(row["expected_sign"]) else 1.0
    ends = np.array([row["low"], row["high"]], float) * sign
    if np.isfinite(ends).all():
        axis.hlines(height, *np.sort(ends), color=colour, linewidth=1.6, alpha=0.55)
    axis.plot(
        float(row["value"]) * sign,
        height,
        "D" if best else "o",
        color=colour,
        markerfacecolor="white" if best else colour,
        markersize=3.5,
        markeredgewidth=0.9,
        label=f"{short}, {'best' if best else 'smallest'} guidance",
    )


def _label_rows(axis: Axes, results: Results, positions: dict[tuple[str, str], float]) -> None:
    names = [short + ("" if _declared(results, pattern) else "°") for short, pattern in positions]
    axis.set_yticks(list(positions.values()), names)
    for label, (short, _) in zip(axis.get_yticklabels(), positions, strict=True):
        label.set_fontweight("bold" if short in REPRESENTATIVES else "normal")
        label.set_fontsize(TEXT)


def _declared(results: Results, pattern: str) -> bool:
    rows = results.measurements.loc[results.measurements["metric"] == results.measured(pattern)]
    return rows.empty or bool(rows["higher_is_better"].notna().all())


def _legend(figure: Figure, guided: bool, metrics: int) -> None:
    handles = {"smallest guidance scale": Line2D([], [], color=FILLED, marker="o")}
    if guided:
        best = Line2D([], [], color=OPEN, marker="D", markerfacecolor="white")
        handles["best guidance of each"] = best
    for handle in handles.values():
        handle.set(markersize=3.5, linewidth=2.2)
    handles["interval over clusters"] = Line2D([], [], color=QUIET, linewidth=1.6)
    legend_below(
        figure,
        handles,
        1 if figure.get_size_inches()[0] < 5 else 3,
        title=f"bold: represents its perspective   °: no declared direction\n"
        f"all {metrics} metrics: table correlations",
        title_fontsize=TEXT - 0.5,
    )
