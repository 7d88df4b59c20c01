"""Variance between seeds and tokenizers, of generation and reconstruction (Fig. 3)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusability.analysis.catalogue import name_metric
from diffusability.analysis.panels import Panel, paired
from diffusability.figures.labels import number_points
from diffusability.figures.panels import (
    MARKER,
    SHAPE,
    add_legend,
    annotate_empty,
    draw_points,
    label_metric,
    number,
    panel_grid,
    point_labels,
    sentence_figure,
    set_title,
    wrapped,
)
from diffusability.figures.results import Results, Scope, backbone_scopes
from diffusability.figures.style import QUIET, cluster_styles


def draw_noise_floor(results: Results) -> Figure:
    """Return a panel per family (rows) and backbone (columns), at the smallest guidance scale.

    Tokenizers are ranked by their mean and shown with every run; runs of a retrained tokenizer
    are hollow.
    """
    columns, rows = list(backbone_scopes(results, results.target)), results.families
    if not columns:
        return sentence_figure(f"{results.target} was not measured in this study")
    figure, axes = panel_grid(len(rows), len(columns), panel=(2.25, 1.8), gap=(0.35, 0.85))
    for family, line in zip(rows, axes, strict=True):
        for scope, axis in zip(columns, line, strict=True):
            _draw_panel(axis, results, scope.at(family=family))
        line[0].set_ylabel(f"{family}\n{name_metric(results.target)}")
    set_title(figure, "How much do tokenizers differ, and how much do seeds of one tokenizer?")
    marks = {
        "a run": Line2D([], [], color=QUIET, marker="o", markersize=MARKER, linestyle="none"),
        "± sd of a run": Line2D([], [], color="0.85", linewidth=3),
    }
    again = Line2D([], [], color=QUIET, marker="o", markersize=MARKER, linestyle="none")
    again.set_markerfacecolor("none")
    add_legend(figure, results, marks | {"hollow: tokenizer trained again": again})
    return figure


def _draw_panel(axis: Axes, results: Results, scope: Scope) -> None:
    axis.set_xlabel(f"rank (1: best), {scope.backbone}")
    found = paired(results.indexed, scope.target, scope, scope.family)
    if found.rows.empty:
        annotate_empty(axis, f"{scope.family} was not sampled with {scope.backbone}")
        return
    rows = found.rows.sort_values(["y", "tokenizer"]).reset_index(drop=True)
    rows["position"] = range(1, len(rows) + 1)
    runs = found.runs.merge(rows[["tokenizer", "cluster", "position"]], on="tokenizer")
    first = runs.groupby("tokenizer")["tokenizer_seed"].transform("min")
    floor = results.row(
        "noise_floor",
        **{"target": scope.target, "backbone": scope.backbone},
        **{"guidance": scope.guidance, "family": scope.family},
    )
    sd = floor["run_sd"] if floor else float("nan")
    if pd.notna(sd):
        axis.vlines(
            rows["position"], rows["y"] - sd, rows["y"] + sd, color="0.85", linewidth=3, zorder=0
        )
    for cluster, (colour, marker) in cluster_styles(results.measurements["cluster"]).items():
        for again in (False, True):
            part = runs[(runs["cluster"] == cluster) & ((runs["tokenizer_seed"] != first) == again)]
            axis.plot(
                part["position"],
                part["y"],
                marker,
                color=colour,
                markerfacecolor="none" if again else colour,
                markersize=0.75 * MARKER * SHAPE.get(marker, 1.0),
                markeredgewidth=0.6,
                label=f"{cluster}{', retrained' if again else ''}",
            )
    axis.locator_params("x", integer=True)
    axis.set_title(_title(axis, floor))
    lowest = rows["tokenizer"].map(runs.groupby("tokenizer")["y"].min())
    names = point_labels(results, rows["tokenizer"])
    number_points(axis, rows["position"], lowest, names, beside=runs[["position", "y"]])


def _title(axis: Axes, row: Mapping[str, Any] | None) -> str:
    """Return the reliability with its interval, and the standard deviation of a run."""
    if row is None:
        return wrapped(axis, "the tables have no noise floor for this panel")
    if pd.isna(row["run_sd"]):
        return wrapped(axis, str(row["note"]).partition(";")[0])
    low, high = row["low"], row["high"]
    ends = "" if pd.isna(low) else f" [{number(low)}, {number(high)}]"
    share = "none" if pd.isna(row["reliability"]) else number(row["reliability"])
    return f"reliability {share}{ends}\nsd of a run {row['run_sd']:.3g}"


SHOWN = (
    "reconstruction.psnr",
    "reconstruction.ssim",
    "reconstruction.lpips*",
    "reconstruction.f[di]*",  # FID if the extractor is Inception
)
HALF_WIDTH = 0.32  # width of a family's column, in columns


def draw_reconstruction(results: Results) -> Figure:
    """Return a panel per reconstruction metric, a column per family, in the order of the study.

    Tokenizers that fell out of the comparison are among them.
    """
    results = results.of_every_tokenizer
    metrics = [name for name in map(results.measured, SHOWN) if name]
    if not metrics:
        return sentence_figure("reconstruction was not measured in this study")
    figure, axes = panel_grid(1, len(metrics), panel=(2.05, 2.2), gap=(0.45, 0.95))
    for axis, metric in zip(axes[0], metrics, strict=True):
        _draw_metric(axis, results, metric)
    set_title(figure, "Reconstruction quality of the tokenizers of each family")
    add_legend(figure, results)
    return figure


def _draw_metric(axis: Axes, results: Results, metric: str) -> None:
    axis.set_title(wrapped(axis, label_metric(results, name_metric(metric), metric)))
    families = results.families
    labels, parts = [], []
    for position, family in enumerate(families):
        rows = paired(results.indexed, metric, Panel(metric, "", None), family).rows
        spread = np.linspace(-HALF_WIDTH, HALF_WIDTH, len(rows)) if len(rows) > 1 else np.zeros(1)
        parts.append(rows.assign(x=position + spread[: len(rows)], x_stderr=np.nan))
        labels.append(f"{family}\n{_spread(results, family, metric)}")
        if len(rows) > 1:
            mean, sd = rows["y"].mean(), rows["y"].std(ddof=1)
            ends = (position - HALF_WIDTH - 0.08, position + HALF_WIDTH + 0.08)
            axis.hlines(mean, *ends, color="0.6", linewidth=0.8, zorder=1)
            axis.fill_between(ends, mean - sd, mean + sd, color="0.93", linewidth=0, zorder=0)
    points = pd.concat(parts)
    draw_points(axis, points, results)
    axis.set_xticks(range(len(families)), labels)
    axis.set_xlim(-0.5, len(families) - 0.5)
    number_points(axis, points["x"], points["y"], point_labels(results, points["tokenizer"]))


def _spread(results: Results, family: str, metric: str) -> str:
    """Return the standard deviation over tokenizers with its interval, or the reason for none."""
    row = results.row("comparability", family=family, metric=metric)
    if row is None or pd.isna(row["value"]):
        return "no spread"
    if pd.isna(row["low"]):
        return f"sd {row['value']:.2g}, n = {row['n']:.0f}\nno interval"
    return f"sd {row['value']:.2g}\n[{row['low']:.2g}, {row['high']:.2g}]"
