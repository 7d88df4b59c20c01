"""Pairs of metrics: with quality as bubbles (Fig. 8), their correlations, LNC and its probe."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusability.analysis.catalogue import REPRESENTATIVES, name_metric
from diffusability.analysis.panels import Panel, paired
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
    turned_row,
    wrapped_grid,
)
from diffusability.figures.results import Results, Scope, reference_scope
from diffusability.figures.style import QUIET, TEXT, cluster_styles

Pair = tuple[tuple[str, str], tuple[str, str]]  # short name and pattern of two metrics
COLUMNS = 3
SHOWN = 6  # pairs; all are in the table regressions
DIAMETERS = (4.0, 13.0)  # points, of the smallest and the largest target


def draw_pairs(results: Results) -> Figure:
    """Return a panel for each of the pairs that predict best: bubbles grow with the distance.

    Lines are the least-squares plane of the Fréchet distance over both metrics.
    """
    scope = reference_scope(results, results.target)
    if scope is None:
        return sentence_figure(f"{results.target} was not measured in this study")
    measured = [item for item in REPRESENTATIVES.items() if results.measured(item[1])]
    every = list(combinations(measured, 2))
    if not every:
        return sentence_figure("two metrics of different perspectives were not measured together")
    pairs = _best(results, scope, every)
    figure, axes = wrapped_grid(len(pairs), COLUMNS, panel=(2.4, 1.9), gap=(0.65, 0.95))
    sizes = _sizes(results, scope)
    for axis, pair in zip(axes.flat, pairs, strict=False):
        _draw_pair(axis, results, scope, pair, sizes)
    which = f"the best {len(pairs)} of {len(every)} pairs"
    set_title(
        figure,
        f"Two perspectives together: {which} for {name_metric(results.target)} of {scope.where}",
    )
    add_legend(figure, results, _size_legend(sizes))
    return figure


def _best(results: Results, scope: Scope, pairs: list[Pair]) -> list[Pair]:
    """Return the pairs with the largest Q², at most ``SHOWN``; those without one are last."""

    def score(pair: Pair) -> float:
        found = _fitted(results, scope, pair)
        return -math.inf if found is None or pd.isna(found["value"]) else found["value"]

    return sorted(pairs, key=score, reverse=True)[:SHOWN]


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
    rows = paired(results.indexed, scope.target, scope, scope.family).rows
    return rows.set_index("tokenizer")["y"]


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
    pair: Pair,
    sizes: pd.Series,
) -> None:
    names = [results.measured(pattern) for _, pattern in pair]
    axis.set_xlabel(label_metric(results, pair[0][0], names[0]))
    axis.set_ylabel(label_metric(results, pair[1][0], names[1]))
    parts = [paired(results.indexed, str(name), scope, scope.family).rows for name in names]
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
    _draw_plane(axis, rows)
    title = statistic_title(axis, "Q²", _fitted(results, scope, pair), len(sizes))
    axis.set_title(title.replace("[", "range [", 1))  # without single clusters: no interval
    names_shown = point_labels(results, rows["tokenizer"])
    number_points(axis, rows["x"], rows["x_2"], names_shown, diameters / 2)


def _draw_plane(axis: Axes, rows: pd.DataFrame) -> None:
    """Draw lines of equal target of the least-squares plane over both metrics."""
    x = np.column_stack([np.ones(len(rows)), rows["x"], rows["x_2"]])
    if len(rows) < 4 or np.linalg.matrix_rank(x) < 3:
        return
    constant, first, second = np.linalg.lstsq(x, rows["y"].to_numpy(float), rcond=None)[0]
    across, up = np.meshgrid(np.linspace(*axis.get_xlim(), 30), np.linspace(*axis.get_ylim(), 30))
    lines = axis.contour(
        across, up, constant + first * across + second * up, levels=5, colors="0.8", linewidths=0.6
    )
    axis.clabel(lines, fontsize=TEXT - 1, colors=QUIET, fmt="%g")


def _fitted(results: Results, scope: Scope, pair: Pair) -> dict[str, Any] | None:
    """Return the row of the fit on both metrics, with Q² as its value."""
    names = [results.measured(pattern) for _, pattern in pair]
    where = {"target": scope.target, "backbone": scope.backbone, "guidance": scope.guidance}
    found = None
    for first, second in (names, names[::-1]):
        metrics = {"metric_1": first, "metric_2": second}
        found = found or results.statistic(
            "regressions", "q2", **where, family=scope.family, **metrics
        )
    return found


def _size_legend(sizes: pd.Series) -> dict[str, Line2D]:
    values = np.unique([sizes.min(), sizes.median(), sizes.max()])
    diameters = bubble_diameters(values, sizes.min(), sizes.max())
    return {
        f"distance {value:.3g}": Line2D(
            [], [], marker="o", color=QUIET, linestyle="none", markersize=size
        )
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
    found = paired(results.indexed, NEIGHBOURS, Panel(PROBE, "", None), family)
    rows = found.rows
    if rows.empty:
        annotate_empty(axis, f"no tokenizer of {family} has both values")
        return
    wanted = {"family": family, "metric": NEIGHBOURS, "target": PROBE}
    row = results.statistic("intercorrelations", "pearson", **wanted)
    draw_points(axis, rows, results)
    draw_fit(axis, rows, row is not None and row["low"] * row["high"] > 0)
    draw_levels(axis, results, NEIGHBOURS)
    draw_levels(axis, results, PROBE, across=True)
    total = len(rows) + len(found.missing)
    axis.set_title(statistic_title(axis, "r", turned_row(row), total))
    number_points(axis, rows["x"], rows["y"], point_labels(results, rows["tokenizer"]))
