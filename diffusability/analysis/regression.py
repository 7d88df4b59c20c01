"""Fits of generation quality on one or two metrics, judged on tokenizers of left-out clusters."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS

from diffusability.analysis.catalogue import HEADLINE
from diffusability.analysis.estimators import (
    Array,
    left_out_predictions,
    standardise,
)
from diffusability.analysis.frames import table_frame
from diffusability.analysis.intervals import MIN_CLUSTERS
from diffusability.analysis.panels import (
    Measured,
    Panel,
    Table,
    headline_targets,
    matching,
    paired_together,
    panels,
    predictors,
)


def regress(table: Table) -> pd.DataFrame:
    """Fit every headline target on every headline metric, and on every pair of them.

    Families are never pooled. The columns: report/captions/tables/regressions.rst.
    """
    table = Measured.of(table)
    names = matching(predictors(table), HEADLINE)
    models = [(name,) for name in names] + list(combinations(names, 2))
    rows = []
    for panel in panels(table, headline_targets(table)):
        for family in table.families:
            found = (_row(table, panel, family, model) for model in models)
            rows += [row for row in found if row is not None]
    return table_frame("regressions", rows)


def _row(
    table: Measured, panel: Panel, family: str, model: tuple[str, ...]
) -> dict[str, object] | None:
    """Return one model over the tokenizers that have all its metrics, None if too few have."""
    rows, x = paired_together(table, model, panel, family)
    n, k = len(rows), len(model)
    if n < k + 3:
        return None
    x, y = standardise(x), standardise(rows["y"].to_numpy(float))
    labels: dict[str, object] = {
        **{**panel.labels, "family": family},
        **{"metric_1": model[0], "metric_2": model[1] if k > 1 else ""},
        **{"n": n, "clusters": rows["cluster"].nunique()},
    }
    if not y.any() or np.linalg.matrix_rank(x, tol=1e-9 * math.sqrt(n)) < k:
        return labels | {"note": "a metric or the target is constant, or metrics are collinear"}
    fit = OLS(y, np.column_stack([np.ones(n), x])).fit()
    labels["r2_adj"] = float(fit.rsquared_adj)
    clusters = pd.factorize(rows["cluster"])[0]
    if clusters.max() + 1 < MIN_CLUSTERS or n - np.bincount(clusters).max() < k + 2:
        return labels | {"note": f"{clusters.max() + 1} clusters are too few to leave one out"}
    predicted, _ = left_out_predictions(x, y, clusters)
    without = [q2_score(predicted[clusters != g], y[clusters != g]) for g in set(clusters)]
    scores = np.maximum([q2_score(predicted, y), min(without), max(without)], -1.0)
    labels |= dict(zip(("q2", "q2_low", "q2_high"), scores.tolist(), strict=True))
    if k > 1:  # over either metric alone, on the same tokenizers
        alone = [left_out_predictions(x[:, [j]], y, clusters)[0] for j in range(k)]
        labels["gain"] = float(scores[0]) - max(-1.0, *(q2_score(p, y) for p in alone))
    return labels


def q2_score(predicted: Array, y: Array) -> float:
    """Return Q² = 1 - PRESS/SST: 1 perfect, 0 as good as the mean; NaN if y is constant."""
    total = float(((y - y.mean()) ** 2).sum())
    return float(1 - ((y - predicted) ** 2).sum() / total) if total > 0 else math.nan
