"""The noise floor: how far seeds spread, beside how far tokenizers do."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.tables import cells
from diffusability.figures.catalogue import name_metric
from diffusability.figures.numbering import number_points
from diffusability.figures.panels import (
    MARKER,
    SHAPE,
    add_legend,
    head,
    number,
    number_names,
    panel_grid,
    say,
    sentence_figure,
    wrapped,
)
from diffusability.figures.results import Results
from diffusability.figures.scope import Scope, backbone_scopes
from diffusability.figures.style import cluster_styles


def draw_noise_floor(results: Results) -> Figure:
    """Return a panel a family (rows) and backbone (columns), at the smallest guidance scale.

    Tokenizers stand in the order of their mean, with every run around it; a run of a retrained
    tokenizer is hollow.
    """
    columns, rows = list(backbone_scopes(results, results.target)), results.families
    if not columns:
        return sentence_figure(f"{results.target} was not measured in this study")
    figure, axes = panel_grid(len(rows), len(columns), panel=(2.25, 1.8), gap=(0.35, 0.85))
    for family, line in zip(rows, axes, strict=True):
        for scope, axis in zip(columns, line, strict=True):
            _draw_panel(axis, results, scope.at(family=family))
        line[0].set_ylabel(f"{family}\n{name_metric(results.target)}")
    head(figure, "Spread of seeds beside the spread of tokenizers")
    add_legend(figure, results)
    return figure


def _draw_panel(axis: Axes, results: Results, scope: Scope) -> None:
    axis.set_xlabel(f"place by quality, {scope.backbone}")
    paired = cells(
        results.measurements, scope.target, scope.target, scope.backbone, scope.cfg
    ).of_family(scope.family)
    if paired.rows.empty:
        say(axis, f"{scope.family} was not sampled with {scope.backbone}")
        return
    rows = paired.rows.sort_values(["y", "tokenizer"]).reset_index(drop=True)
    rows["place"] = range(1, len(rows) + 1)
    runs = paired.runs.merge(rows[["tokenizer", "cluster", "place"]], on="tokenizer")
    first = runs.groupby("tokenizer")["tokenizer_seed"].transform("min")
    found = results.row(
        "noise_floor",
        **{"target": scope.target, "backbone": scope.backbone},
        **{"cfg": scope.cfg, "family": scope.family},
    )
    sd = found["run_sd"] if found else float("nan")
    if pd.notna(sd):
        axis.vlines(
            rows["place"], rows["y"] - sd, rows["y"] + sd, color="0.85", linewidth=3, zorder=0
        )
    for cluster, (colour, marker) in cluster_styles(results.measurements["cluster"]).items():
        for again in (False, True):
            part = runs[(runs["cluster"] == cluster) & ((runs["tokenizer_seed"] != first) == again)]
            axis.plot(
                part["place"],
                part["y"],
                marker,
                color=colour,
                markerfacecolor="none" if again else colour,
                markersize=0.75 * MARKER * SHAPE.get(marker, 1.0),
                markeredgewidth=0.6,
                label=f"{cluster}{', retrained' if again else ''}",
            )
    axis.locator_params("x", integer=True)
    axis.set_title(_title(axis, found))
    lowest = rows["tokenizer"].map(runs.groupby("tokenizer")["y"].min())
    names = number_names(results, rows["tokenizer"])
    number_points(axis, rows["place"], lowest, names, beside=runs[["place", "y"]])


def _title(axis: Axes, row: Mapping[str, Any] | None) -> str:
    """Return the share of variance that is tokenizers, with its interval, and the seeds' spread."""
    if row is None:
        return wrapped(axis, "the tables hold no noise floor for this panel")
    if pd.isna(row["run_sd"]):
        return wrapped(axis, str(row["note"]).partition(";")[0])
    low, high = row["low"], row["high"]
    ends = "" if pd.isna(low) else f" [{number(low)}, {number(high)}]"
    share = "none" if pd.isna(row["reliability"]) else number(row["reliability"])
    return f"reliability {share}{ends}\nsd of a run {row['run_sd']:.3g}"
