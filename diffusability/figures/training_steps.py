"""Generation quality, and its correlation with latent metrics, against training steps."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from diffusability.analysis.catalogue import HEADLINE_METRICS, name_metric
from diffusability.analysis.panels import CONTROL, GENERATION
from diffusability.figures.panels import (
    annotate_empty,
    legend_below,
    panel_grid,
    sentence_figure,
    set_title,
)
from diffusability.figures.results import Results, Scope, backbone_scopes, reference_scope
from diffusability.figures.style import MARKERS, PALETTE, QUIET, cluster_styles

# line styles
CONTROLS: dict[str, Literal[":", "--", "-."]] = {
    "noise": ":",
    "gaussian": "--",
    "posterior": "-.",
}
DODGE = 0.1  # of the smallest ratio of two steps, over which the marks of one step are spread


def draw_training_steps(results: Results) -> Figure:
    """Return two rows per family, a column per backbone: the target, and r, against the step.

    Only where a study has snapshots; else one sentence.
    """
    if reference_scope(results, results.target) is None:
        return sentence_figure(f"{results.target} was not measured in this study")
    scopes = list(backbone_scopes(results, results.target))
    every = results.tables["measurements"]
    if all(len(_steps(every, scope)) < 2 for scope in scopes):
        return sentence_figure(
            "every backbone was measured at its last step only (train.snapshots): no curve"
        )
    families = results.families
    figure, axes = panel_grid(2 * len(families), len(scopes), panel=(2.6, 1.8), gap=(0.45, 0.75))
    for row, family in enumerate(families):
        for column, scope in enumerate(scopes):
            above, below = axes[2 * row, column], axes[2 * row + 1, column]
            _draw_target(above, results, scope.at(family=family))
            _draw_correlations(below, results, scope.at(family=family))
            above.set_title(f"{scope.backbone}, {scope.words}\n{family}")
            below.set_xlabel("training steps")
        axes[2 * row, 0].set_ylabel(name_metric(results.target))
        axes[2 * row + 1, 0].set_ylabel("sign-oriented r")
    set_title(figure, f"Correlation with {name_metric(results.target)} against training steps")
    _legend(figure, results)
    return figure


def _steps(table: pd.DataFrame, scope: Scope) -> list[int]:
    """Return the steps at which a backbone was measured, ascending."""
    own = table[(table["backbone"] == scope.backbone) & (table["metric"] == scope.target)]
    return sorted(int(step) for step in own["step"].dropna().unique())


def _draw_target(axis: Axes, results: Results, scope: Scope) -> None:
    """Draw the mean over seeds of each tokenizer against the step, and the controls."""
    table = results.tables["measurements"]
    table = table[table["tokenizer"].isin(results.measurements["tokenizer"])]
    steps = _steps(table, scope)
    own = table[(table["backbone"] == scope.backbone) & (table["metric"] == scope.target)]
    own = own[(own["family"] == scope.family) & (own["guidance"] == scope.guidance)]
    if own["value"].notna().sum() == 0:
        annotate_empty(axis, f"{scope.family} was not sampled with {scope.backbone}")
        return
    styles = cluster_styles(results.measurements["cluster"])
    for _, rows in own.groupby("tokenizer", sort=False):
        curve = rows.groupby("step")["value"].mean()
        colour, marker = styles[rows["cluster"].iloc[0]]
        x, y = curve.index.to_numpy(float), curve.to_numpy(float)
        axis.plot(x, y, color=colour, marker=marker, markersize=3, linewidth=0.8, alpha=0.8)
    for name, style in CONTROLS.items():
        value = control_level(table, scope, name)
        if math.isfinite(value):
            axis.axhline(value, color=QUIET, linestyle=style, linewidth=0.9, zorder=1)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    _step_axis(axis, steps)


def control_level(table: pd.DataFrame, scope: Scope, control: str) -> float:
    """Return the median of a control over the tokenizers of a family; NaN if not measured."""
    metric = scope.target.replace(GENERATION, f"{CONTROL}{control}.", 1)
    rows = table[(table["metric"] == metric) & (table["family"] == scope.family)]
    return float(rows.groupby("tokenizer")["value"].mean().median())


def _draw_correlations(axis: Axes, results: Results, scope: Scope) -> None:
    """Draw one line per headline metric with its intervals over clusters."""
    steps = _steps(results.tables["measurements"], scope)
    axis.axhline(0, color="0.6", linewidth=0.8)
    width = DODGE * math.log(min([b / a for a, b in pairwise(steps)] or [1.5]))
    shifts = np.exp(np.linspace(-width, width, len(HEADLINE_METRICS)))
    drawn = 0
    for k, metric in enumerate(HEADLINE_METRICS.values()):
        found = correlations_by_step(results, scope, metric)
        if found.empty:
            continue
        drawn += 1
        colour, marker = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
        x = found["step"].to_numpy(float) * shifts[k]
        axis.plot(x, found["r"], color=colour, marker=marker, markersize=3.5, linewidth=0.9)
        axis.vlines(x, found["low"], found["high"], color=colour, linewidth=0.7, alpha=0.7)
    if not drawn:
        annotate_empty(axis, "no correlation: the table correlations says why for each metric")
        return
    axis.set_ylim(-1.05, 1.05)
    _step_axis(axis, steps)


def correlations_by_step(results: Results, scope: Scope, metric: str) -> pd.DataFrame:
    """Return step, sign-oriented r and the ends low and high of its interval over clusters.

    Steps without r have no row; an interval that does not exist is NaN.
    """
    table = results.tables["correlations"]
    own = table[(table["metric"] == metric) & (table["target"] == scope.target)]
    own = own[(own["backbone"] == scope.backbone) & (own["family"] == scope.family)]
    own = own[(own["guidance"] == scope.guidance) & own["pearson"].notna() & own["step"].notna()]
    rows = [_oriented(row) for row in own.sort_values("step").to_dict("records")]
    return pd.DataFrame(rows, columns=["step", "r", "low", "high"])


def _oriented(row: Mapping[Any, Any]) -> tuple[int, float, float, float]:
    sign = -1.0 if row["expected_sign"] == -1 else 1.0
    over = "pearson_cluster" if "pearson_cluster_low" in row else "pearson"
    ends = sorted(sign * float(row[f"{over}_{end}"]) for end in ("low", "high"))
    return int(row["step"]), sign * float(row["pearson"]), ends[0], ends[1]


def _step_axis(axis: Axes, steps: list[int]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(steps, [f"{step:,}" for step in steps])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(steps[0] / 1.25, steps[-1] * 1.25)


def _legend(figure: Figure, results: Results) -> None:
    handles = {
        short: Line2D([], [], color=PALETTE[k % len(PALETTE)], marker=MARKERS[k % len(MARKERS)])
        for k, (short, metric) in enumerate(HEADLINE_METRICS.items())
        if results.measured(metric)
    }
    for name, style in CONTROLS.items():
        if results.measured(f"{CONTROL}{name}.*"):
            handles[f"control: {name}"] = Line2D([], [], color=QUIET, linestyle=style)
    for handle in handles.values():
        handle.set(markersize=3.5, linewidth=0.9)
    legend_below(figure, handles, max(2, int(1.2 * figure.get_size_inches()[0])))
