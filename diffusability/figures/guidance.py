"""Generation quality along the guidance scale (Fig. 25) and at its best (Fig. 7)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.catalogue import REPRESENTATIVES, name_metric
from diffusability.analysis.panels import Panel, best_guidance, paired
from diffusability.figures.labels import number_ends
from diffusability.figures.panels import (
    SHAPE,
    add_legend,
    annotate_empty,
    comparison_grid,
    panel_grid,
    point_labels,
    sentence_figure,
    set_title,
    statistic_title,
)
from diffusability.figures.perspectives import draw_relation, every_scope, finish_row
from diffusability.figures.results import (
    Results,
    Scope,
    backbones,
    guidance_scales,
)
from diffusability.figures.style import QUIET, cluster_styles
from diffusability.study.planning.tables import BEST


def draw_guidance(results: Results) -> Figure:
    """Return a panel per family (rows) and backbone (columns): the target against the scale."""
    columns, rows = backbones(results, results.target), results.families
    if not columns:
        return sentence_figure(f"{results.target} was not measured in this study")
    if not any(len(guidance_scales(results, results.target, backbone)) > 1 for backbone in columns):
        return sentence_figure("every backbone was sampled at one guidance scale: no curve")
    figure, axes = panel_grid(len(rows), len(columns), panel=(2.0, 1.9), gap=(0.62, 0.85))
    for family, line in zip(rows, axes, strict=True):
        for backbone, axis in zip(columns, line, strict=True):
            _draw_panel(axis, results, backbone, family)
        line[0].set_ylabel(f"{family}\n{name_metric(results.target)}")
    set_title(figure, f"{name_metric(results.target)} along the guidance scale; the best is marked")
    add_legend(figure, results)
    return figure


def _draw_panel(axis: Axes, results: Results, backbone: str, family: str) -> None:
    known = guidance_scales(results, results.target, backbone)
    axis.set_xlabel(f"guidance scale, {backbone}")
    if len(known) < 2:
        scale = ", ".join(f"{guidance:g}" for guidance in known) or "none"
        annotate_empty(axis, f"sampled at {len(known)} guidance scale ({scale}): there is no curve")
        return
    table, target = results.indexed, results.target
    curves = pd.concat(
        paired(table, target, Panel(target, backbone, guidance), family).rows for guidance in known
    )
    if curves.empty:
        annotate_empty(axis, f"{family} was not sampled with {backbone}")
        return
    best, _ = best_guidance(table, target, backbone)
    for cluster, (colour, marker) in cluster_styles(results.measurements["cluster"]).items():
        for name, curve in curves[curves["cluster"] == cluster].groupby("tokenizer", sort=False):
            axis.plot(
                curve["guidance"], curve["y"], color=colour, linewidth=0.7, alpha=0.7, label=name
            )
            top = curve[curve["guidance"] == best[str(name)]]
            size = 4 * SHAPE.get(marker, 1.0)
            axis.plot(
                top["guidance"],
                top["y"],
                marker,
                color=colour,
                markersize=size,
                zorder=3,
                clip_on=False,
            )
    axis.set_xticks(known if len(known) < 7 else known[:: -(-len(known) // 6)])
    axis.set_title(_title(axis, results, backbone, family, curves["tokenizer"].nunique()))
    last = curves.groupby("tokenizer", sort=False).tail(1)  # of ascending scales
    axis.set_xlim(known[0], known[-1])
    number_ends(axis, last["y"].tolist(), point_labels(results, last["tokenizer"]))


def _title(axis: Axes, results: Results, backbone: str, family: str, total: int) -> str:
    """Return the share of tokenizers whose best scale is in the paper's range."""
    wanted = {"target": results.target, "backbone": backbone, "family": family}
    found = results.row("guidance", **wanted, statistic="share_inside")
    return statistic_title(axis, "best in 1.5\N{EN DASH}2", found, total)


def draw_best_guidance(results: Results) -> Figure:
    """Return a row of panels per family and backbone: several scales, the best one marked.

    Scales up to the largest one that is best for any tokenizer are shown.
    """
    scopes = [scope.at(guidance=BEST) for scope in every_scope(results, results.target)]
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    if not any(
        len(guidance_scales(results, results.target, scope.backbone)) > 1 for scope in scopes
    ):
        return sentence_figure("every backbone was sampled at one guidance scale: there is no best")
    figure, axes = comparison_grid(len(scopes), len(REPRESENTATIVES))
    for row, scope in zip(axes, scopes, strict=True):
        row[0].set_ylabel(f"{scope.backbone}, {scope.family}\n{name_metric(scope.target)}")
        known = guidance_scales(results, scope.target, scope.backbone)
        if len(known) < 2:
            only = f"sampled at {len(known)} guidance scale only: there is no best"
            for axis, short in zip(row, REPRESENTATIVES, strict=True):
                axis.set_xlabel(short)
                annotate_empty(axis, only)
            continue
        points = []
        for axis, metric in zip(row, REPRESENTATIVES.items(), strict=True):
            points.append(draw_relation(axis, results, metric, scope))
            if not points[-1].empty:
                _draw_scales(axis, results, metric[1], scope)
        finish_row(row, points, results)
    set_title(figure, f"{name_metric(results.target)} at the best guidance scale of each tokenizer")
    add_legend(figure, results)
    return figure


def _draw_scales(axis: Axes, results: Results, pattern: str, scope: Scope) -> None:
    """Draw the other guidance scales of each tokenizer as a column of dots."""
    best = set(best_guidance(results.indexed, scope.target, scope.backbone)[0].values())
    name = results.measured(pattern)
    columns = []
    for guidance in guidance_scales(results, scope.target, scope.backbone):
        if name is not None and min(best) <= guidance <= max(best):
            at = scope.at(guidance=guidance)
            columns.append(paired(results.indexed, name, at, scope.family).rows)
    rows = pd.concat(columns)
    ends = rows.groupby("tokenizer")["y"].agg(["min", "max"])
    x = rows.groupby("tokenizer")["x"].first()
    axis.vlines(x, ends["min"], ends["max"], color="0.85", linewidth=0.6, zorder=1)
    axis.plot(rows["x"], rows["y"], ".", color=QUIET, alpha=0.6, markersize=1.5, zorder=2)
