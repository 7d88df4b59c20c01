"""One panel: a metric against generation quality over tokenizers, with r and its interval."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from diffusability.analysis.tables import cells
from diffusability.figures.catalogue import name_metric
from diffusability.figures.numbering import number_points
from diffusability.figures.panels import (
    draw_fit,
    draw_points,
    label_metric,
    number_names,
    say,
    share_limits,
    wrapped_statement,
)
from diffusability.figures.results import Results
from diffusability.figures.scope import Scope


def draw_relations(
    axes: np.ndarray, results: Results, scopes: Sequence[Scope], metrics: Mapping[str, str]
) -> None:
    """Draw a row of panels a scope: its target against each metric.

    Args:
        axes: (scopes, metrics) panels.
        results: of the study.
        scopes: one a row.
        metrics: pattern by short name, one a column.
    """
    for row, scope in zip(axes, scopes, strict=True):
        points = [
            draw_relation(axis, results, metric, scope)
            for axis, metric in zip(row, metrics.items(), strict=True)
        ]
        finish_row(row, points, results)
        lines = (scope.backbone, f"{scope.guidance}, {scope.family}", name_metric(scope.target))
        row[0].set_ylabel("\n".join(lines))


def draw_relation(
    axis: Axes, results: Results, metric: tuple[str, str], scope: Scope
) -> pd.DataFrame:
    """Draw one panel and return its points (rows of ``Cells``, empty where there are none)."""
    short, pattern = metric
    name = results.measured(pattern)
    axis.set_xlabel(label_metric(results, short, name))
    if name is None:
        say(axis, f"{short} ({pattern}) was not measured in this study")
        return pd.DataFrame()
    paired = cells(results.measurements, name, scope.target, scope.backbone, scope.cfg)
    paired = paired.of_family(scope.family)
    if paired.rows.empty:
        reasons = dict.fromkeys(paired.missing["reason"])
        say(axis, "; ".join(reasons) or f"{scope.family} has no tokenizer here")
        return paired.rows
    draw_points(axis, paired.rows, results)
    draw_fit(axis, paired.rows["x"], paired.rows["y"])
    total = len(paired.rows) + len(set(paired.missing.loc[paired.missing["excluded"], "tokenizer"]))
    axis.set_title(_title(axis, results, name, scope, total))
    return paired.rows


def finish_row(axes: Sequence[Axes], points: Sequence[pd.DataFrame], results: Results) -> None:
    """Give the panels of a row one vertical scale, then number their points."""
    share_limits(axes, [not rows.empty for rows in points])
    for axis, rows in zip(axes, points, strict=True):
        if not rows.empty:
            number_points(axis, rows["x"], rows["y"], number_names(results, rows["tokenizer"]))


def _title(axis: Axes, results: Results, metric: str, scope: Scope, total: int) -> str:
    """Return r with its interval, and over how many tokenizers; or why there is none."""
    row = results.row(
        "correlations",
        target=scope.target,
        backbone=scope.backbone,
        cfg=scope.cfg,
        family=scope.family,
        metric=metric,
        statistic="pearson",
    )
    return wrapped_statement(axis, "r", row, total)
