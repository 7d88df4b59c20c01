"""FI, FIR and MMSE rate against noise, for every tokenizer: from fits and trained models."""

import json

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.panels import CURVE
from diffusability.figures.panels import (
    add_legend,
    annotate_empty,
    panel_grid,
    sentence_figure,
    set_title,
)
from diffusability.figures.results import Results, reference_scope
from diffusability.figures.style import cluster_styles

PREFIX = f"fisher{CURVE}"
# quantity: axis label
QUANTITIES = {
    "fi": "v FI / n",
    "fir": "v² FIR / n",
    "mmse_rate": "MMSE rate / n",
    "fir_deviation_per_dimension": "FIR deviation",
}
# part of a metric's name before and after the quantity: row label
ROWS = {
    ("", ""): "fits per class",
    ("", "_unconditional"): "fits, unconditional",
    ("learned_", ""): "learned, class-conditional",
    ("learned_", "_unconditional"): "learned, unconditional",
}


def draw_fisher_curves(results: Results) -> Figure:
    """Return a row per source and condition, a panel per quantity, over the noise variance.

    One line per tokenizer, the mean over its seeds, in the colour of its cluster; only the
    reference family and, for learned curves, the reference backbone.
    """
    scope = reference_scope(results, results.target)
    family = results.families[0] if scope is None else scope.family
    backbone = "" if scope is None else scope.backbone
    curves = {
        (source, condition, quantity): _of(
            curve_rows(results, f"{source}{quantity}{condition}", family), source and backbone
        )
        for source, condition in ROWS
        for quantity in QUANTITIES
    }
    drawn = [of for of in ROWS if not all(curves[*of, quantity].empty for quantity in QUANTITIES)]
    if not drawn:
        return sentence_figure("Fisher curves were not measured in this study")
    figure, axes = panel_grid(len(drawn), len(QUANTITIES), panel=(1.5, 1.25), gap=(0.45, 0.5))
    for row, of in zip(axes, drawn, strict=True):
        for axis, (quantity, words) in zip(row, QUANTITIES.items(), strict=True):
            _draw(axis, results, curves[*of, quantity])
            axis.set_title(words)
        row[0].set_ylabel(ROWS[of])
    for axis in axes[-1]:
        axis.set_xlabel("noise variance v")
    learned = f", learned by {backbone}" if any(source for source, _ in drawn) else ""
    set_title(figure, f"Fisher geometry along the noise, {family}{learned}; n: dimensions")
    add_legend(figure, results, key=False)
    return figure


def curve_rows(results: Results, name: str, family: str) -> pd.DataFrame:
    """Return tokenizer, cluster, backbone, v and value of one curve, means over trainings."""
    table = results.measurements
    chosen = table["metric"].str.fullmatch(rf"{PREFIX}{name}_v[0-9.e+-]+")
    rows = table[chosen & (table["family"] == family) & table["value"].notna()]
    levels = [json.loads(options)["v"] for options in rows["options"]]
    rows = rows.assign(v=pd.array(levels, dtype=float))
    keys = ["tokenizer", "cluster", "backbone", "v"]
    trained = rows.groupby([*keys, "tokenizer_seed"], sort=True)["value"].mean()
    return trained.groupby(level=keys).mean().reset_index()


def _of(rows: pd.DataFrame, backbone: str) -> pd.DataFrame:
    """Return the rows of a backbone; all without one."""
    return rows[rows["backbone"] == backbone] if backbone else rows


def _draw(axis: Axes, results: Results, rows: pd.DataFrame) -> None:
    if rows.empty:
        annotate_empty(axis, "this curve was not measured in this study")
        return
    styles = cluster_styles(results.measurements["cluster"])
    sns.lineplot(
        rows,
        x="v",
        y="value",
        units="tokenizer",
        estimator=None,
        hue="cluster",
        palette={cluster: colour for cluster, (colour, _) in styles.items()},
        linewidth=0.9,
        alpha=0.8,
        legend=False,
        ax=axis,
    )
    axis.set(xscale="log", xlabel="", ylabel="")
