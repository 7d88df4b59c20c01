"""Predicting generation quality from one or two metrics, and how well that holds elsewhere."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.outliers_influence import variance_inflation_factor

from diffusability.analysis.correlation import Analysis, AnalysisOptions
from diffusability.analysis.estimators import Array, Estimator, standardise
from diffusability.analysis.intervals import bootstrap_interval, cluster_interval, keyed_generator
from diffusability.analysis.ordering import Ordering, order_pairs, top1_regret
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import (
    ALL_FAMILIES,
    Panel,
    cells,
    expected_sign,
    families,
    higher_is_better,
    panels,
    predictors,
)
from diffusability.analysis.wild_bootstrap import wild_cluster_p

TERM = ("beta", "beta_stderr", "beta_low", "beta_high", "beta_p", "beta_wild_p")
COLUMNS = (
    "target",
    "backbone",
    "cfg",
    "family",
    "predictors",
    "metric_1",
    "metric_2",
    "r2",
    "r2_low",
    "r2_high",
    "r2_cluster_low",
    "r2_cluster_high",
    "r2_method",
    "r2_adj",
    "q2",
    "q2_rank",
    *(f"{name}_{term}" for term in (1, 2) for name in TERM),
    "vif",
    "ordering",
    "ordering_low",
    "ordering_high",
    "ordering_pairs",
    "ordering_by",
    "regret",
    "confidence",
    "n",
    "clusters",
    "note",
)


def regress(
    table: pd.DataFrame,
    pairs_of: Sequence[str],
    analysis: Analysis | None = None,
) -> pd.DataFrame:
    """Fit every target on every metric, and on every pair of the named ones.

    Args:
        table: a checked tidy table (``check_measurements``).
        pairs_of: metrics whose pairs are fitted, usually one a perspective.
        analysis: resamples, confidence and seed.

    Returns:
        One row a panel, family and model. Metrics and target are standardised, so ``beta`` is in
        standard deviations of the raw numbers; its error is cluster-robust (t with G - 1 degrees
        of freedom), ``beta_wild_p`` is from the wild cluster bootstrap and holds for few clusters.
        ``r2`` in sample, its interval by bootstrap; ``q2`` = 1 - PRESS/SST with whole clusters
        left out (1: perfect, 0 or less: useless elsewhere), ``q2_rank`` the rank correlation of
        those predictions; ``vif`` 1: no collinearity; ``ordering``: share of pairs of tokenizers
        ordered rightly, over pairs further apart than twice their noise (0.5: chance);
        ``regret``: target of the tokenizer chosen first minus the best, in its unit (0: best).
        One metric orders by its declared direction, two by predictions for left-out clusters.
    """
    analysis = analysis or AnalysisOptions()
    models = [(name,) for name in predictors(table)] + list(combinations(pairs_of, 2))
    rows = [
        row
        for panel in panels(table)
        for model in models
        for row in _model_rows(table, panel, model, analysis)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _model_rows(
    table: pd.DataFrame, panel: Panel, model: tuple[str, ...], analysis: Analysis
) -> Iterator[dict[str, object]]:
    paired = [cells(table, m, panel.target, panel.backbone, panel.cfg) for m in model]
    rows = paired[0].rows
    for other, second in enumerate(paired[1:], start=2):
        extra = second.rows[["tokenizer", "x"]].rename(columns={"x": f"x_{other}"})
        rows = rows.merge(extra, on="tokenizer")
    names, label = families(table), " + ".join(model)
    row: dict[str, object] = {}
    for family in names:
        part = rows if family == ALL_FAMILIES else rows[rows["family"] == family]
        # one family is all there is: the same numbers under both names
        if family == ALL_FAMILIES or len(names) > 2:
            rng = keyed_generator(analysis.seed, *panel.labels.values(), family, label)
            row = _fit_row(table, part, panel.target, model, analysis, rng)
        missing = [cell.of_family(family).missing_note() for cell in paired]
        yield {
            **panel.labels,
            "family": family,
            "predictors": label,
            "metric_1": model[0],
            "metric_2": model[1] if len(model) > 1 else "",
            "confidence": analysis.confidence,
            "n": len(part),
            "clusters": part["cluster"].nunique(),
            **row,
            "note": join_notes(row["note"], *missing),
        }


def _fit_row(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    target: str,
    model: tuple[str, ...],
    analysis: Analysis,
    rng: np.random.Generator,
) -> dict[str, object]:
    """Return what a fit says of itself, or a note why there is none."""
    columns = ["x", *(f"x_{i}" for i in range(2, len(model) + 1))]
    raw = rows[columns].to_numpy(float)
    X = np.column_stack([standardise(c) for c in raw.T]) if len(rows) else raw
    y = standardise(rows["y"].to_numpy(float)) if len(rows) else np.empty(0)
    clusters = pd.factorize(rows["cluster"])[0]
    n, k = X.shape
    if n < k + 3:
        return {"note": f"{n} tokenizers are too few for {k} predictors and a constant"}
    if not y.any() or not X.any(axis=0).all():
        return {"note": "a metric or the target is constant: no fit"}
    if np.linalg.matrix_rank(X, tol=1e-9 * math.sqrt(n)) < k:
        return {"note": "the metrics are collinear: no fit"}
    held_out = leave_cluster_out(X, y, clusters)
    q2, rank = _skill(held_out, y)
    notes = [] if not math.isnan(q2) else ["too few clusters to leave one out"]
    found, term_note = _terms(X, y, clusters, analysis, rng)
    order_row, order_note = _order_row(table, rows, target, model, held_out, analysis, rng)
    return {
        **_r2_row(X, y, clusters, analysis, rng),
        **found,
        **{"q2": q2, "q2_rank": rank},
        **order_row,
        "vif": float(variance_inflation_factor(sm.add_constant(X), 1)) if k > 1 else math.nan,
        "note": join_notes(*notes, term_note, order_note),
    }


def r2_estimator(X: Array, y: Array) -> Estimator:
    """Return R² of the least-squares fit of y (n,) on X (n, k) with a constant, in [0, 1]."""
    n, k = X.shape
    columns = np.column_stack([X, y])
    products = np.einsum("ni,nj->nij", columns, columns).reshape(n, -1)

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1)[:, None]
        mean = weights @ columns / total
        second = (weights @ products / total).reshape(-1, k + 1, k + 1)
        cov = second - mean[:, :, None] * mean[:, None, :]
        cross = cov[:, :k, k:]  # (B, k, 1)
        inverse = np.linalg.pinv(cov[:, :k, :k], rcond=1e-10, hermitian=True)
        explained = (np.swapaxes(cross, 1, 2) @ inverse @ cross)[:, 0, 0]
        there = cov[:, k, k] > 1e-12
        share = explained / np.where(there, cov[:, k, k], 1.0)
        return np.where(there, np.clip(share, 0.0, 1.0), np.nan)

    return Estimator(weighted, n, distinct=k + 2)


def leave_cluster_out(X: Array, y: Array, clusters: NDArray[np.int64]) -> Array:
    """Return predictions (n,) of y (n,) from fits on X (n, k) without the point's cluster.

    NaN where the other clusters hold too few points to fit.
    """
    predicted = np.full(len(y), np.nan)
    design = np.column_stack([np.ones(len(y)), X])
    for code in np.unique(clusters):
        out = clusters == code
        if (~out).sum() < design.shape[1] + 1:
            continue
        coefficients = np.linalg.lstsq(design[~out], y[~out], rcond=None)[0]
        predicted[out] = design[out] @ coefficients
    return predicted


def q2_score(predicted: Array, y: Array) -> float:
    """Return Q² = 1 - PRESS/SST: 1 perfect, 0 as good as the mean; NaN if a prediction lacks."""
    if np.isnan(predicted).any():
        return math.nan
    return float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def _skill(predicted: Array, y: Array) -> tuple[float, float]:
    q2 = q2_score(predicted, y)
    if math.isnan(q2) or not standardise(predicted).any():
        return q2, math.nan
    return q2, float(stats.spearmanr(predicted, y).statistic)


def _r2_row(
    X: Array, y: Array, clusters: NDArray[np.int64], analysis: Analysis, rng: np.random.Generator
) -> dict[str, object]:
    estimator = r2_estimator(X, y)
    options = {"confidence": analysis.confidence, "resamples": analysis.resamples}
    plain = bootstrap_interval(estimator, rng=rng, **options)  # type: ignore[arg-type]
    cluster = cluster_interval(estimator, clusters, rng=rng, **options)  # type: ignore[arg-type]
    n, k = X.shape
    return {
        "r2": estimator.value,
        "r2_adj": 1 - (1 - estimator.value) * (n - 1) / (n - k - 1),
        **{"r2_low": plain.low, "r2_high": plain.high, "r2_method": plain.method},
        **{"r2_cluster_low": cluster.low, "r2_cluster_high": cluster.high},
    }


def _terms(
    X: Array, y: Array, clusters: NDArray[np.int64], analysis: Analysis, rng: np.random.Generator
) -> tuple[dict[str, float], str]:
    """Return standardised coefficients with cluster-robust errors, and what to know of them."""
    design = sm.add_constant(X)
    count = len(set(clusters))
    model = sm.OLS(y, design)
    note = f"{count} clusters: robust errors are too small, read beta_wild_p"
    if count > X.shape[1] + 1:
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    else:
        fit, note = model.fit(), f"{count} clusters: errors as of independent tokenizers"
    ends = fit.conf_int(alpha=1 - analysis.confidence)
    row: dict[str, float] = {}
    for term in range(1, design.shape[1]):
        wild = wild_cluster_p(design, y, clusters, term, rng=rng, resamples=analysis.resamples)
        numbers = (fit.params[term], fit.bse[term], *ends[term], fit.pvalues[term], wild)
        row |= {f"{name}_{term}": float(v) for name, v in zip(TERM, numbers, strict=True)}
    return row, note if count < 40 else ""


def _order_row(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    target: str,
    model: tuple[str, ...],
    held_out: Array,
    analysis: Analysis,
    rng: np.random.Generator,
) -> tuple[dict[str, object], str]:
    """Return how well a model orders tokenizers, and a note."""
    better = higher_is_better(table, target)
    if better is None:
        return {"ordering_by": "none"}, f"{target} has no direction: no regret"
    y = rows["y"].to_numpy(float)
    if len(model) == 1:
        sign, by = expected_sign(table, model[0], target), "declared direction"
        if sign is None:
            return {"ordering_by": "none"}, f"{model[0]} has no direction: it orders nothing"
        score = sign * rows["x"].to_numpy(float)
    else:
        score, by = held_out, "predictions for left-out clusters"
        if np.isnan(score).any():
            return {"ordering_by": "none"}, ""
    ordering: Ordering = order_pairs(score, y, rows["y_stderr"].to_numpy(float))
    row: dict[str, object] = {
        "ordering": ordering.accuracy,
        "ordering_pairs": ordering.pairs,
        "ordering_by": by,
        "regret": top1_regret(score, y, better),
    }
    low, high = ordering.interval(
        rng=rng, confidence=analysis.confidence, resamples=analysis.resamples
    )
    return row | {"ordering_low": low, "ordering_high": high}, ordering.note
