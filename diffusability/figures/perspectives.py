"""Every perspective's metrics against generation quality (Fig. 4, arXiv 2606.03578)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.catalogue import REPRESENTATIVES, SHOWN, name_metric
from diffusability.analysis.panels import cells
from diffusability.figures.labels import number_points
from diffusability.figures.panels import (
    add_legend,
    annotate_empty,
    comparison_grid,
    draw_fit,
    draw_levels,
    draw_points,
    label_metric,
    panel_grid,
    point_labels,
    sentence_figure,
    set_title,
    share_limits,
    statistic_title,
)
from diffusability.figures.results import Results, Scope, backbone_scopes, reference_scope

COLUMNS = 4


def draw_perspectives(results: Results) -> Figure:
    """Return the panels for the Fréchet distance of generated images."""
    return draw_perspectives_of(results, results.target)


def draw_perspectives_inception_score(results: Results) -> Figure:
    """Return the panels for the Inception score (higher is better)."""
    return draw_perspectives_of(results, "generation.inception_score_*")


def draw_perspectives_fdr6(results: Results) -> Figure:
    """Return the panels for FDr6, the mean of six Fréchet distances (lower is better)."""
    return draw_perspectives_of(results, "generation.fdr6")


def draw_perspectives_of(results: Results, pattern: str) -> Figure:
    """Return one panel per metric: the reference backbone, guidance scale and family.

    Args:
        results: of the study.
        pattern: shell pattern of the generation metric.
    """
    target = results.measured(pattern)
    scope = reference_scope(results, target) if target else None
    if target is None or scope is None:
        return sentence_figure(f"{name_metric(pattern)} ({pattern}) was not measured in this study")
    names = [item for item in SHOWN.items() if results.measured(item[1])]
    if not names:
        return sentence_figure("no metric of any perspective was measured in this study")
    columns = min(COLUMNS, len(names))
    figure, axes = panel_grid(-(-len(names) // columns), columns, panel=(2.2, 1.75))
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for index, row in enumerate(axes):
        metrics = names[index * columns : (index + 1) * columns]
        points = [
            draw_relation(axis, results, metric, scope)
            for axis, metric in zip(row, metrics, strict=False)
        ]
        finish_row(row[: len(metrics)], points, results)
        row[0].set_ylabel(name_metric(target))
    set_title(figure, f"{name_metric(target)} of {scope.where}, by perspective")
    add_legend(figure, results)
    return figure


def draw_backbones(results: Results) -> Figure:
    """Return a row of panels per backbone, at its smallest guidance scale, in one family."""
    scopes = list(backbone_scopes(results, results.target))
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    if len(scopes) == 1:
        return sentence_figure("one backbone: there is nothing to compare it with")
    figure, axes = comparison_grid(len(scopes), len(REPRESENTATIVES))
    draw_relations(axes, results, scopes, REPRESENTATIVES)
    set_title(figure, f"{name_metric(results.target)} by backbone")
    add_legend(figure, results)
    return figure


def draw_families(results: Results) -> Figure:
    """Return a row of panels per family, on the reference backbone at its smallest guidance."""
    reference = reference_scope(results, results.target)
    scopes = [reference.at(family=name) for name in results.families] if reference else []
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    if len(scopes) == 1:
        return sentence_figure("one family: there is nothing to compare it with")
    figure, axes = comparison_grid(len(scopes), len(REPRESENTATIVES))
    draw_relations(axes, results, scopes, REPRESENTATIVES)
    set_title(figure, f"{name_metric(results.target)} by tokenizer family")
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
    axis.set_xlabel(label_metric(results, short, name))
    if name is None:
        annotate_empty(axis, f"{short} ({pattern}) was not measured in this study")
        return pd.DataFrame()
    paired = cells(results.indexed, name, scope.target, scope.backbone, scope.guidance)
    paired = paired.of_family(scope.family)
    if paired.rows.empty:
        reasons = dict.fromkeys(paired.missing["reason"])
        annotate_empty(axis, "; ".join(reasons) or f"{scope.family} has no tokenizer here")
        return paired.rows
    draw_points(axis, paired.rows, results)
    draw_fit(axis, paired.rows)
    draw_levels(axis, results, name)
    total = len(paired.rows) + len(set(paired.missing.loc[paired.missing["excluded"], "tokenizer"]))
    axis.set_title(_title(axis, results, name, scope, total))
    return paired.rows


def finish_row(axes: Sequence[Axes], points: Sequence[pd.DataFrame], results: Results) -> None:
    """Give the panels of a row the same y axis, then number their points."""
    share_limits(axes, [not rows.empty for rows in points])
    for axis, rows in zip(axes, points, strict=True):
        if not rows.empty:
            number_points(axis, rows["x"], rows["y"], point_labels(results, rows["tokenizer"]))


def _title(axis: Axes, results: Results, metric: str, scope: Scope, total: int) -> str:
    """Return r with its interval and the number of tokenizers, or the reason for none."""
    row = results.statistic(
        "correlations",
        "pearson",
        target=scope.target,
        backbone=scope.backbone,
        guidance=scope.guidance,
        family=scope.family,
        metric=metric,
    )
    return statistic_title(axis, "r", row, total)
