"""Pairs of metrics: with quality as bubbles (Fig. 8), their correlations, LNC and its probe."""

from itertools import combinations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusability.analysis.catalogue import REPRESENTATIVES, name_metric
from diffusability.analysis.panels import cells
from diffusability.figures.labels import number_points
from diffusability.figures.panels import (
    add_legend,
    annotate_empty,
    draw_fit,
    draw_levels,
    draw_points,
    label_metric,
    panel_grid,
    point_labels,
    sentence_figure,
    set_title,
    statistic_title,
)
from diffusability.figures.results import Results, Scope, reference_scope
from diffusability.figures.style import QUIET, TEXT, cluster_styles

COLUMNS = 5
DIAMETERS = (4.0, 9.0)  # points, of the smallest and the largest target


def draw_pairs(results: Results) -> Figure:
    """Return a panel per pair: bubbles grow with the Fréchet distance, so small ones are better."""
    scope = reference_scope(results, results.target)
    if scope is None:
        return sentence_figure(f"{results.target} was not measured in this study")
    measured = [item for item in REPRESENTATIVES.items() if results.measured(item[1])]
    pairs = list(combinations(measured, 2))
    if not pairs:
        return sentence_figure("two metrics of different perspectives were not measured together")
    columns = min(COLUMNS, len(pairs))
    figure, axes = panel_grid(
        -(-len(pairs) // columns), columns, panel=(1.42, 1.4), gap=(0.6, 0.95)
    )
    sizes = _sizes(results, scope)
    for axis, pair in zip(axes.flat, pairs, strict=False):
        _draw_pair(axis, results, scope, pair, sizes)
    for axis in axes.flat[len(pairs) :]:
        axis.remove()
    set_title(figure, f"Two perspectives and {name_metric(results.target)} of {scope.where}")
    add_legend(figure, results, _size_legend(sizes))
    return figure


def draw_intercorrelations(results: Results) -> Figure:
    """Return a heatmap per family: Pearson's r between the metrics, oriented by their directions.

    Positive means that two metrics favour the same tokenizers.
    """
    table = results.tables.get("intercorrelations")
    names = {results.measured(pattern): short for short, pattern in REPRESENTATIVES.items()}
    names.pop(None, None)
    if table is None or table.empty or len(names) < 2:
        return sentence_figure("two metrics of different perspectives were not measured together")
    families = results.families
    figure, axes = panel_grid(1, len(families), panel=(2.7, 2.4), gap=(0.7, 0.9), left=0.7)
    order = list(names.values())
    for axis, family in zip(axes[0], families, strict=True):
        own = table[(table["family"] == family) & table["metric"].isin(list(names))]
        own = own.assign(r=own["pearson"] * own["expected_sign"].fillna(1.0))
        matrix = own.pivot(index="target", columns="metric", values="r").rename(
            index=names, columns=names
        )
        matrix = matrix.reindex(index=order[1:], columns=order[:-1])
        if matrix.isna().all(axis=None):
            annotate_empty(axis, own["note"].iloc[0] if len(own) else f"no pair in {family}")
            continue
        sns.heatmap(
            matrix,
            vmin=-1,
            vmax=1,
            cmap="vlag",
            annot=True,
            fmt=".2f",
            annot_kws={"fontsize": TEXT},
            cbar=False,
            ax=axis,
        )
        axis.set(title=f"{family}, n = {own['n'].max():.0f}", xlabel="", ylabel="")
    set_title(figure, "Correlation between metrics, positive where they favour the same tokenizers")
    return figure


def _sizes(results: Results, scope: Scope) -> pd.Series:
    """Return the target of each tokenizer of the scope."""
    rows = cells(results.indexed, scope.target, scope.target, scope.backbone, scope.guidance)
    return rows.of_family(scope.family).rows.set_index("tokenizer")["y"]


def bubble_diameters(values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Return diameters in points whose areas grow linearly from the lowest to the highest value."""
    small, large = (diameter**2 for diameter in DIAMETERS)
    share = (
        (values - lowest) / (highest - lowest) if highest > lowest else np.full_like(values, 0.5)
    )
    return np.sqrt(small + share * (large - small))


def _draw_pair(
    axis: Axes,
    results: Results,
    scope: Scope,
    pair: tuple[tuple[str, str], tuple[str, str]],
    sizes: pd.Series,
) -> None:
    names = [results.measured(pattern) for _, pattern in pair]
    axis.set_xlabel(label_metric(results, pair[0][0], names[0]))
    axis.set_ylabel(pair[1][0])
    parts = [
        cells(results.indexed, str(name), scope.target, scope.backbone, scope.guidance)
        .of_family(scope.family)
        .rows
        for name in names
    ]
    rows = parts[0].merge(parts[1][["tokenizer", "x"]], on="tokenizer", suffixes=("", "_2"))
    if rows.empty:
        annotate_empty(axis, "no tokenizer has both metrics and the target")
        return
    diameters = bubble_diameters(rows["y"].to_numpy(float), sizes.min(), sizes.max())
    styles = cluster_styles(results.measurements["cluster"])
    sns.scatterplot(
        rows,
        x="x",
        y="x_2",
        hue="cluster",
        palette={cluster: colour for cluster, (colour, _) in styles.items()},
        style="cluster",
        markers={cluster: marker for cluster, (_, marker) in styles.items()},
        size="y",
        size_norm=(sizes.min(), sizes.max()),
        sizes=tuple(diameter**2 for diameter in DIAMETERS),
        edgecolor="white",
        linewidth=0.3,
        legend=False,
        ax=axis,
    )
    axis.margins(0.12)
    axis.set_title(_title(axis, results, scope, names, len(sizes)))
    names_shown = point_labels(results, rows["tokenizer"])
    number_points(axis, rows["x"], rows["x_2"], names_shown, diameters / 2)


def _title(axis: Axes, results: Results, scope: Scope, names: list[str | None], total: int) -> str:
    """Return Q² of both on left-out clusters, with its range."""
    where = {"target": scope.target, "backbone": scope.backbone, "guidance": scope.guidance}
    found = None
    for first, second in (names, names[::-1]):
        pair = {"metric_1": first, "metric_2": second}
        found = found or results.statistic(
            "regressions", "q2", **where, family=scope.family, **pair
        )
    return statistic_title(axis, "Q²", found, total)


def _size_legend(sizes: pd.Series) -> dict[str, Line2D]:
    values = np.unique([sizes.min(), sizes.median(), sizes.max()])
    diameters = bubble_diameters(values, sizes.min(), sizes.max())
    return {
        f"{value:.3g}": Line2D([], [], marker="o", color=QUIET, linestyle="none", markersize=size)
        for value, size in zip(values, diameters, strict=True)
    }


NEIGHBOURS = "semantics.lnc5"
PROBE = "semantics.probe"


def draw_neighbours_probe(results: Results) -> Figure:
    """Return a panel per family: probe accuracy against LNC (both: higher is better)."""
    names = results.families
    figure, axes = panel_grid(1, len(names), panel=(2.6, 2.2), gap=(0.5, 0.75))
    for axis, family in zip(axes[0], names, strict=True):
        _draw_family(axis, results, family)
    set_title(figure, "Latent neighbour consistency and the linear probe")
    add_legend(figure, results)
    return figure


def _draw_family(axis: Axes, results: Results, family: str) -> None:
    axis.set_xlabel(label_metric(results, f"LNC of {family}", results.measured(NEIGHBOURS)))
    axis.set_ylabel("accuracy of the linear probe")
    for name, words in ((NEIGHBOURS, "LNC"), (PROBE, "the linear probe")):
        if results.measured(name) is None:
            annotate_empty(axis, f"{words} ({name}) was not measured in this study")
            return
    paired = cells(results.indexed, NEIGHBOURS, PROBE, "", None).of_family(family)
    rows = paired.rows
    if rows.empty:
        annotate_empty(axis, f"no tokenizer of {family} has both values")
        return
    draw_points(axis, rows, results)
    draw_fit(axis, rows)
    draw_levels(axis, results, NEIGHBOURS)
    draw_levels(axis, results, PROBE, across=True)
    wanted = {"family": family, "metric": NEIGHBOURS, "target": PROBE}
    found = results.statistic("intercorrelations", "pearson", **wanted)
    total = len(rows) + len(set(paired.missing.loc[paired.missing["excluded"], "tokenizer"]))
    axis.set_title(statistic_title(axis, "r", found, total))
    number_points(axis, rows["x"], rows["y"], point_labels(results, rows["tokenizer"]))
