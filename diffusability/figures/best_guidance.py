"""Generation quality at each tokenizer's best guidance scale, by what represents it (Fig. 7)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.tables import best_guidance, cells
from diffusability.figures.catalogue import REPRESENTATIVES, name_metric
from diffusability.figures.panels import add_legend, compared, head, say, sentence_figure
from diffusability.figures.relation import draw_relation, finish_row
from diffusability.figures.results import Results
from diffusability.figures.scope import Scope, backbone_scopes, scales
from diffusability.figures.style import QUIET


def draw_best_guidance(results: Results) -> Figure:
    """Return a row of panels a backbone: each tokenizer at several scales, its best one marked.

    Scales are shown from the smallest to the largest that is the best of any tokenizer.
    """
    scopes = [scope.at(cfg=None) for scope in backbone_scopes(results, results.target)]
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    if not any(len(scales(results, results.target, scope.backbone)) > 1 for scope in scopes):
        return sentence_figure("every backbone was sampled at one guidance scale: there is no best")
    figure, axes = compared(len(scopes), len(REPRESENTATIVES), "")
    for row, scope in zip(axes, scopes, strict=True):
        row[0].set_ylabel(f"{scope.backbone}\n{name_metric(scope.target)}")
        known = scales(results, scope.target, scope.backbone)
        if len(known) < 2:
            only = f"sampled at {len(known)} guidance scale only: there is no best"
            for axis, short in zip(row, REPRESENTATIVES, strict=True):
                axis.set_xlabel(short)
                say(axis, only)
            continue
        points = []
        for axis, metric in zip(row, REPRESENTATIVES.items(), strict=True):
            points.append(draw_relation(axis, results, metric, scope))
            if not points[-1].empty:
                _draw_scales(axis, results, metric[1], scope)
        finish_row(row, points, results)
    head(figure, f"{name_metric(results.target)} at the best guidance scale of each tokenizer")
    add_legend(figure, results)
    return figure


def _draw_scales(axis: Axes, results: Results, pattern: str, scope: Scope) -> None:
    """Draw the other guidance scales of each tokenizer as a column of dots."""
    best = set(best_guidance(results.measurements, scope.target, scope.backbone)[0].values())
    name = results.measured(pattern)
    columns = []
    for cfg in scales(results, scope.target, scope.backbone):
        if name is not None and min(best) <= cfg <= max(best):
            paired = cells(results.measurements, name, scope.target, scope.backbone, cfg)
            columns.append(paired.of_family(scope.family).rows)
    rows = pd.concat(columns)
    ends = rows.groupby("tokenizer")["y"].agg(["min", "max"])
    x = rows.groupby("tokenizer")["x"].first()
    axis.vlines(x, ends["min"], ends["max"], color="0.85", linewidth=0.6, zorder=1)
    axis.plot(rows["x"], rows["y"], ".", color=QUIET, alpha=0.6, markersize=1.5, zorder=2)
