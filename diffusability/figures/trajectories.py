"""Sampling trajectories: straightness and efficiency (Fig. 9), length of the steps (Fig. 10)."""

import json
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.catalogue import TRAJECTORY, name_metric
from diffusability.analysis.panels import CURVE, paired
from diffusability.figures.panels import (
    add_legend,
    annotate_empty,
    panel_grid,
    sentence_figure,
    set_title,
)
from diffusability.figures.perspectives import draw_relations, every_scope
from diffusability.figures.results import Results, Scope, backbone_scopes
from diffusability.figures.style import PALETTE


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
RANKS = {"worst": PALETTE[1], "median": "0.35", "best": PALETTE[0]}


def draw_length_ratio(results: Results) -> Figure:
    """Return a panel per family and backbone, over time from noise (0) to latent (1).

    Solid, left axis: the length ratio of the worst, the median and the best tokenizer by Fréchet
    distance, all others grey. Dashed, right axis: the irreducible variance of those three.
    """
    scopes = list(backbone_scopes(results, results.target))
    families = list(dict.fromkeys(s.family for s in every_scope(results, results.target)))
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    figure, axes = panel_grid(
        len(families), len(scopes), panel=(2.6, 1.7), gap=(0.95, 1.25), left=0.6, foot=0.3
    )
    for family, line in zip(families, axes, strict=True):
        for axis, scope in zip(line, scopes, strict=True):
            _draw_profiles(axis, results, scope.at(family=family))
        line[0].set_ylabel("length ratio of a step")
    best = f"worst, median and best tokenizer by {name_metric(results.target)}"
    set_title(figure, f"Length of sampling steps of the {best}")
    return figure


def _draw_profiles(axis: Axes, results: Results, scope: Scope) -> None:
    ratio = length_ratios(results, scope)
    if ratio.empty:
        annotate_empty(axis, f"the tables have no length ratio for {scope.where}")
        return
    chosen = representatives(results, scope)
    ranks = {name: rank for rank, name in chosen.items()}
    for name, curve in ratio.groupby("tokenizer", sort=True):
        rank = ranks.get(str(name), "")
        axis.plot(
            curve["time"],
            curve["value"],
            color=RANKS.get(rank, "0.88"),
            linewidth=1.3 if rank else 0.5,
            zorder=2 if rank else 1,
            label=str(name) if rank else "_",
        )
    axis.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    axis.set_title(f"{scope.backbone}, {scope.words}\n{scope.family}")
    axis.set_xlabel("time (0: noise, 1: latent)")
    axis.set_xlim(0, 1)
    _overlay_variance(axis, variance_curves(results, scope.family), ranks)
    _name(axis, results, chosen)


def _overlay_variance(axis: Axes, variance: pd.DataFrame, ranks: Mapping[str, str]) -> None:
    """Draw the irreducible variance of the coloured tokenizers on an axis of its own."""
    if variance.empty:
        return
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.locator_params("y", nbins=4)
    right.set_ylabel("irreducible variance (dashed)")
    for name, rank in ranks.items():
        curve = variance[variance["tokenizer"] == name]
        style = {"color": RANKS[rank], "linestyle": "--", "linewidth": 0.9}
        right.plot(curve["time"], curve["value"], label=name, **style)


def representatives(results: Results, scope: Scope) -> dict[str, str]:
    """Return the worst, median and best tokenizer of a scope; all if fewer than three."""
    rows = paired(results.indexed, scope.target, scope, scope.family).rows
    names = list(rows.sort_values(["y", "tokenizer"])["tokenizer"])
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


def _name(axis: Axes, results: Results, chosen: Mapping[str, str]) -> None:
    """Name the coloured tokenizers below a panel, with their numbers."""
    lines, labels = axis.get_legend_handles_labels()
    handles = dict(zip(labels, lines, strict=True))
    ranks = {rank: name for rank, name in chosen.items() if name in handles}
    axis.legend(
        [handles[name] for name in ranks.values()],
        [f"{rank}: {results.numbers[name]} {name}" for rank, name in ranks.items()],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.22),
        frameon=False,
        handlelength=2,
    )
