"""The metrics of every perspective against generation quality (Fig. 4 to 6 and the appendix)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.catalogue import PERSPECTIVES, REPRESENTATIVES, name_metric
from diffusability.analysis.failed import failed_tokenizers
from diffusability.analysis.panels import paired
from diffusability.figures.labels import number_points
from diffusability.figures.panels import (
    add_legend,
    annotate_empty,
    comparison_grid,
    draw_fit,
    draw_levels,
    draw_points,
    label_lines,
    label_metric,
    point_labels,
    sentence_figure,
    set_title,
    share_limits,
    statistic_title,
    turned_row,
    wrapped_grid,
)
from diffusability.figures.results import Results, Scope, backbone_scopes, reference_scope
from diffusability.figures.style import QUIET, TEXT

COLUMNS = 4
FACE, EDGE = "#eef5fb", "#0072B2"  # of the panel that stands for its perspective


def draw_perspectives(results: Results) -> Figure:
    """Return one panel per metric: the reference backbone, guidance scale and family.

    Perspectives are ranked by the largest |r| of their metrics, and that metric's panel is marked.
    """
    scope = reference_scope(results, results.target)
    if scope is None:
        return sentence_figure(f"{results.target} was not measured in this study")
    ranked = ranked_perspectives(results, scope)
    if not ranked:
        return sentence_figure("no metric of any perspective was measured in this study")
    names = [(title, item) for title, metrics in ranked for item in metrics]
    figure, axes = wrapped_grid(len(names), COLUMNS, panel=(2.2, 1.6), gap=(0.2, 0.9))
    ranks = {title: k for k, (title, _) in enumerate(ranked, start=1)}
    firsts = {metrics[0] for _, metrics in ranked}
    for index, row in enumerate(axes):
        shown = names[index * len(row) : (index + 1) * len(row)]
        points = []
        for axis, (title, metric) in zip(row, shown, strict=False):
            points.append(draw_relation(axis, results, metric, scope))
            _head(axis, f"{ranks[title]}. {title}", metric in firsts)
        finish_row(row[: len(shown)], points, results)
        row[0].set_ylabel(name_metric(results.target))
    set_title(
        figure, f"{name_metric(results.target)} of {scope.where}: perspectives by largest |r|"
    )
    add_legend(figure, results)
    return figure


def ranked_perspectives(results: Results, scope: Scope) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the measured metrics (short name, pattern) of each perspective, strongest first.

    Perspectives come in the order of their strongest metric; those without r are last.
    """

    def strength(metric: tuple[str, str]) -> float:
        found = correlation(results, results.measured(metric[1]), scope)
        return -1.0 if found is None or pd.isna(found["value"]) else abs(found["value"])

    groups = [
        (title, [item for item in metrics.items() if results.measured(item[1])])
        for title, metrics in PERSPECTIVES.items()
    ]
    ordered = [(title, sorted(own, key=strength, reverse=True)) for title, own in groups if own]
    return sorted(ordered, key=lambda group: strength(group[1][0]), reverse=True)


def _head(axis: Axes, text: str, first: bool) -> None:
    """Write rank and perspective above a panel's title; mark the strongest metric."""
    lines = axis.get_title().count("\n") + 1
    axis.annotate(
        text,
        (0.5, 1),
        xycoords="axes fraction",
        xytext=(0, 6 + 1.3 * TEXT * lines),
        textcoords="offset points",
        ha="center",
        fontsize=TEXT,
        fontweight="bold" if first else "normal",
        color=EDGE if first else QUIET,
    )
    if first:
        axis.set_facecolor(FACE)
        for spine in axis.spines.values():
            spine.set(edgecolor=EDGE, linewidth=1.0, visible=True)


def draw_generalization(results: Results) -> Figure:
    """Return a row of panels per family and backbone, other than those of the perspectives."""
    scopes = every_scope(results, results.target)
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    if len(scopes) == 1:
        return sentence_figure("one backbone and one family: there is nothing to compare them with")
    return draw_rows(results, scopes[1:], "on other backbones and families")


def draw_inception_score(results: Results) -> Figure:
    """Return a row of panels per family and backbone for the Inception score."""
    return _draw_target(results, "generation.inception_score_*")


def draw_fdr6(results: Results) -> Figure:
    """Return a row of panels per family and backbone for FDr6, the mean of six distances."""
    return _draw_target(results, "generation.fdr6")


def _draw_target(results: Results, pattern: str) -> Figure:
    target = results.measured(pattern)
    scopes = every_scope(results, target) if target else []
    if not scopes:
        return sentence_figure(f"{name_metric(pattern)} ({pattern}) was not measured in this study")
    return draw_rows(results, scopes, "on every backbone and family")


def every_scope(results: Results, target: str) -> list[Scope]:
    """Return the scopes of every family and backbone, the reference scope first."""
    reference = reference_scope(results, target)
    if reference is None:
        return []
    others = [name for name in results.families if name != reference.family]
    backbone = list(backbone_scopes(results, target))
    return [scope.at(family=name) for name in (reference.family, *others) for scope in backbone]


def draw_rows(results: Results, scopes: Sequence[Scope], where: str) -> Figure:
    """Return a row of panels per scope, one column per perspective's metric."""
    metrics = {short: of for short, of in REPRESENTATIVES.items() if results.measured(of)}
    if not metrics:
        return sentence_figure("no metric of any perspective was measured in this study")
    figure, axes = comparison_grid(len(scopes), len(metrics))
    draw_relations(axes, results, scopes, metrics)
    set_title(figure, f"{name_metric(scopes[0].target)} {where}")
    add_legend(figure, results)
    return figure


def draw_relations(
    axes: np.ndarray, results: Results, scopes: Sequence[Scope], metrics: Mapping[str, str]
) -> None:
    """Draw a row of panels per scope: its target against each metric.

    Args:
        axes: (scopes, metrics) panels.
        results: of the study.
        scopes: one per row.
        metrics: pattern by short name, one per column.
    """
    for row, scope in zip(axes, scopes, strict=True):
        points = [
            draw_relation(axis, results, metric, scope)
            for axis, metric in zip(row, metrics.items(), strict=True)
        ]
        finish_row(row, points, results)
        lines = (scope.backbone, f"{scope.words}, {scope.family}", name_metric(scope.target))
        row[0].set_ylabel("\n".join(lines))


def draw_relation(
    axis: Axes, results: Results, metric: tuple[str, str], scope: Scope
) -> pd.DataFrame:
    """Draw one panel and return its points (rows of ``Cells``, may be empty)."""
    short, pattern = metric
    name = results.measured(pattern)
    axis.set_xlabel(label_lines(axis, label_metric(results, short, name)))
    if name is None:
        annotate_empty(axis, f"{short} ({pattern}) was not measured in this study")
        return pd.DataFrame()
    found = paired(results.indexed, name, scope, scope.family)
    if found.rows.empty:
        reasons = dict.fromkeys(found.missing["reason"])
        annotate_empty(axis, "; ".join(reasons) or f"{scope.family} has no tokenizer here")
        return found.rows
    row = turned_row(correlation(results, name, scope))
    failed = failed_tokenizers(results.indexed, scope, scope.family)
    draw_points(axis, found.rows, results, failed)
    draw_fit(axis, found.rows, row is not None and row["low"] * row["high"] > 0)
    draw_levels(axis, results, name)
    total = len(found.rows) + len(found.missing)
    axis.set_title(statistic_title(axis, "r", row, total))
    return found.rows


def finish_row(axes: Sequence[Axes], points: Sequence[pd.DataFrame], results: Results) -> None:
    """Give the panels of a row the same y axis, then number their points."""
    share_limits(axes, [not rows.empty for rows in points])
    for axis, rows in zip(axes, points, strict=True):
        if not rows.empty:
            number_points(axis, rows["x"], rows["y"], point_labels(results, rows["tokenizer"]))


def correlation(results: Results, metric: str | None, scope: Scope) -> dict[str, Any] | None:
    """Return the row of a metric's correlation in a scope; None if the tables have none."""
    return results.statistic(
        "correlations",
        "pearson",
        target=scope.target,
        backbone=scope.backbone,
        guidance=scope.guidance,
        family=scope.family,
        metric=metric,
    )
