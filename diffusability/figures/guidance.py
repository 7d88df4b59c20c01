"""Generation quality along the guidance scale, one curve a tokenizer (Fig. 25)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.tables import best_guidance, cells
from diffusability.figures.catalogue import name_metric
from diffusability.figures.numbering import number_ends
from diffusability.figures.panels import (
    SHAPE,
    add_legend,
    head,
    number_names,
    panel_grid,
    say,
    sentence_figure,
    wrapped_statement,
)
from diffusability.figures.results import Results
from diffusability.figures.scope import backbones, scales
from diffusability.figures.style import cluster_styles


def draw_guidance(results: Results) -> Figure:
    """Return a panel a family (rows) and backbone (columns): the target against the scale."""
    columns, rows = backbones(results, results.target), results.families
    if not columns:
        return sentence_figure(f"{results.target} was not measured in this study")
    if not any(len(scales(results, results.target, backbone)) > 1 for backbone in columns):
        return sentence_figure("every backbone was sampled at one guidance scale: no curve")
    figure, axes = panel_grid(len(rows), len(columns), panel=(2.0, 1.9), gap=(0.62, 0.85))
    for family, line in zip(rows, axes, strict=True):
        for backbone, axis in zip(columns, line, strict=True):
            _draw_panel(axis, results, backbone, family)
        line[0].set_ylabel(f"{family}\n{name_metric(results.target)}")
    head(figure, f"{name_metric(results.target)} along the guidance scale; the best is marked")
    add_legend(figure, results)
    return figure


def _draw_panel(axis: Axes, results: Results, backbone: str, family: str) -> None:
    known = scales(results, results.target, backbone)
    axis.set_xlabel(f"guidance scale, {backbone}")
    if len(known) < 2:
        scale = ", ".join(f"{cfg:g}" for cfg in known) or "none"
        say(axis, f"sampled at {len(known)} guidance scale ({scale}): there is no curve")
        return
    table, target = results.measurements, results.target
    curves = pd.concat(
        cells(table, target, target, backbone, cfg).of_family(family).rows for cfg in known
    )
    if curves.empty:
        say(axis, f"{family} was not sampled with {backbone}")
        return
    best, _ = best_guidance(table, target, backbone)
    for cluster, (colour, marker) in cluster_styles(table["cluster"]).items():
        for name, curve in curves[curves["cluster"] == cluster].groupby("tokenizer", sort=False):
            axis.plot(curve["cfg"], curve["y"], color=colour, linewidth=0.7, alpha=0.7, label=name)
            top = curve[curve["cfg"] == best[str(name)]]
            size = 4 * SHAPE.get(marker, 1.0)
            axis.plot(
                top["cfg"], top["y"], marker, color=colour, markersize=size, zorder=3, clip_on=False
            )
    axis.set_xticks(known if len(known) < 7 else known[:: -(-len(known) // 6)])
    axis.set_title(_title(axis, results, backbone, family, curves["tokenizer"].nunique()))
    last = curves.groupby("tokenizer", sort=False).tail(1)  # of ascending scales
    axis.set_xlim(known[0], known[-1])
    number_ends(axis, last["y"].tolist(), number_names(results, last["tokenizer"]))


def _title(axis: Axes, results: Results, backbone: str, family: str, total: int) -> str:
    """Return the share of tokenizers whose best scale lies where the paper saw them all."""
    wanted = {"target": results.target, "backbone": backbone, "family": family}
    found = results.row("guidance", **wanted, statistic="share_inside")
    return wrapped_statement(axis, "best in 1.5\N{EN DASH}2", found, total)
