"""Straightness and efficiency of sampling trajectories against generation quality (Fig. 9)."""

import json

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.catalogue import TRAJECTORY, name_metric
from diffusability.analysis.panels import CURVE, cells
from diffusability.figures.panels import (
    MARKER,
    SHAPE,
    add_legend,
    annotate_empty,
    panel_grid,
    sentence_figure,
    set_title,
)
from diffusability.figures.perspectives import draw_relations
from diffusability.figures.results import Results, Scope, backbone_scopes
from diffusability.figures.style import cluster_styles


def draw_trajectories(results: Results) -> Figure:
    """Return a row of panels per backbone, at its smallest guidance scale, in one family."""
    scopes = list(backbone_scopes(results, results.target))
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    figure, axes = panel_grid(len(scopes), len(TRAJECTORY), panel=(2.5, 1.6))
    draw_relations(axes, results, scopes, TRAJECTORY)
    set_title(figure, f"{name_metric(results.target)} and sampling trajectories")
    add_legend(figure, results)
    return figure


VARIANCE = f"velocity{CURVE}"  # one measurement per time, its option t: I(t) of Eq. 4
PLACES = {"worst": "-", "median": "--", "best": ":"}


def draw_length_ratio(results: Results) -> Figure:
    """Return two panels per backbone, over time from noise (0) to latent (1).

    Top: the irreducible variance; bottom: the length ratio. Every tokenizer is grey; the worst,
    the median and the best by Fréchet distance are coloured.
    """
    scopes = list(backbone_scopes(results, results.target))
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    figure, axes = panel_grid(2, len(scopes), panel=(2.2, 1.5), gap=(0.4, 0.6))
    for (above, below), scope in zip(axes.T, scopes, strict=True):
        chosen = representatives(results, scope)
        variance = variance_curves(results, scope.family)
        absent = "the irreducible variance over time (velocity.curve_…) was not measured"
        _draw_curves(above, results, variance, chosen, absent)
        ratio = length_ratios(results, scope)
        absent = f"the tables have no length ratio for {scope.where}"
        _draw_curves(below, results, ratio, chosen, absent)
        if not ratio.empty:
            below.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        above.set_title(f"{scope.backbone}\n{scope.words}, {scope.family}")
        below.set_xlabel("time (0: noise, 1: latent)")
        if chosen:
            _name(below if not ratio.empty else above, results, chosen)
    axes[0][0].set_ylabel("irreducible variance")
    axes[1][0].set_ylabel("length ratio of a step")
    set_title(
        figure, f"Length of sampling steps; tokenizers ordered by {name_metric(results.target)}"
    )
    return figure


def representatives(results: Results, scope: Scope) -> dict[str, str]:
    """Return the worst, median and best tokenizer of a scope; all if fewer than three."""
    found = cells(results.indexed, scope.target, scope.target, scope.backbone, scope.guidance)
    rows = found.of_family(scope.family).rows.sort_values(["y", "tokenizer"])
    names = list(rows["tokenizer"])
    ranks = {"best": 0, "worst": len(names) - 1, "median": len(names) // 2}
    chosen: dict[str, str] = {}
    for rank, index in ranks.items():
        if names and names[index] not in chosen.values():
            chosen[rank] = names[index]
    return chosen


def length_ratios(results: Results, scope: Scope) -> pd.DataFrame:
    """Return the rows of the table of profiles in a scope; may be empty."""
    table = results.last.get("profiles")
    if table is None or table.empty:
        return pd.DataFrame()
    fits = (table["family"] == scope.family) & (table["backbone"] == scope.backbone)
    return table[fits & (table["guidance"] == scope.guidance)]


def variance_curves(results: Results, family: str) -> pd.DataFrame:
    """Return tokenizer, cluster, time and I(t) of a family, means over tokenizer seeds."""
    table = results.measurements
    rows = table[table["metric"].str.startswith(VARIANCE) & (table["family"] == family)]
    times = [json.loads(options)["t"] for options in rows["options"]]
    rows = rows.assign(time=pd.array(times, dtype=float))
    keys = ["tokenizer", "cluster", "time"]
    return rows.groupby(keys, sort=True)["value"].mean().reset_index()


def _draw_curves(
    axis: Axes, results: Results, rows: pd.DataFrame, chosen: dict[str, str], absent: str
) -> None:
    if rows.empty:
        annotate_empty(axis, absent)
        return
    ranks = {name: rank for rank, name in chosen.items()}
    styles = cluster_styles(results.measurements["cluster"])
    for name, curve in rows.groupby("tokenizer", sort=True):
        if name not in ranks:
            axis.plot(curve["time"], curve["value"], color="0.85", linewidth=0.5, zorder=1)
            continue
        colour, marker = styles[curve["cluster"].iloc[0]]
        axis.plot(
            curve["time"],
            curve["value"],
            linestyle=PLACES[ranks[str(name)]],
            color=colour,
            marker=marker,
            markersize=0.8 * MARKER * SHAPE.get(marker, 1.0),
            markevery=max(1, len(curve) // 6),
            linewidth=1.1,
            zorder=2,
            label=str(name),
        )
    axis.set_xlim(-0.02, 1.02)


def _name(axis: Axes, results: Results, chosen: dict[str, str]) -> None:
    """Name the coloured tokenizers below a panel, with their numbers."""
    lines, labels = axis.get_legend_handles_labels()
    handles = dict(zip(labels, lines, strict=True))
    ranks = {rank: name for rank, name in chosen.items() if name in handles}
    axis.legend(
        [handles[name] for name in ranks.values()],
        [f"{rank}: {results.numbers[name]} {name}" for rank, name in ranks.items()],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.28),
        frameon=False,
        handlelength=3,
    )
