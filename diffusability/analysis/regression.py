"""Predicting generation quality from one or two metrics, and how well that holds elsewhere."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.outliers_influence import variance_inflation_factor

from diffusability.analysis.estimators import Array, Estimator, standardise
from diffusability.analysis.intervals import (
    bootstrap_intervals,
    cluster_draws,
    cluster_intervals,
    keyed_generator,
    tokenizer_draws,
)
from diffusability.analysis.options import Analysis, AnalysisOptions
from diffusability.analysis.ordering import order_pairs, top1_regret
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import (
    ALL_FAMILIES,
    Measured,
    Panel,
    Table,
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
    table: Table,
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
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    models = [(name,) for name in predictors(table)] + list(combinations(pairs_of, 2))
    rows = [row for panel in panels(table) for row in _panel_rows(table, panel, models, analysis)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class _Fit:
    """One model over the tokenizers that have all its metrics.

    Attributes:
        model: names of its k metrics. x: (n, k) raw metrics. y: (n,) target.
        y_stderr: (n,) its standard error or NaN. clusters: (n,) codes. tokenizers: (n,) names.
        note: what was left out.
    """

    model: tuple[str, ...]
    x: Array
    y: Array
    y_stderr: Array
    clusters: NDArray[np.int64]
    tokenizers: tuple[str, ...]
    note: str

    @property
    def problem(self) -> str:
        """Why there is no fit, empty where there is one."""
        n, k = self.x.shape
        if n < k + 3:
            return f"{n} tokenizers are too few for {k} predictors and a constant"
        x = standardise(self.x)
        if not standardise(self.y).any() or not x.any(axis=0).all():
            return "a metric or the target is constant: no fit"
        if np.linalg.matrix_rank(x, tol=1e-9 * math.sqrt(n)) < k:
            return "the metrics are collinear: no fit"
        return ""


def _panel_rows(
    table: Measured, panel: Panel, models: Sequence[tuple[str, ...]], analysis: Analysis
) -> Iterator[dict[str, object]]:
    """Yield the rows of every model in one panel: all families together, then each."""
    names = families(table)
    found: dict[str, tuple[list[_Fit], list[dict[str, object]]]] = {}
    for family in names:
        # one family is all there is: the same numbers under both names
        if family == ALL_FAMILIES or len(names) > 2:
            fits = [_fit(table, panel, model, family) for model in models]
            found[family] = fits, _fit_rows(table, panel, family, fits, analysis)
        else:
            found[family] = found[ALL_FAMILIES]
    for place, model in enumerate(models):
        for family in names:
            fit, row = found[family][0][place], found[family][1][place]
            yield {
                **panel.labels,
                "family": family,
                "predictors": " + ".join(model),
                "metric_1": model[0],
                "metric_2": model[1] if len(model) > 1 else "",
                "confidence": analysis.confidence,
                "n": len(fit.y),
                "clusters": len(set(fit.clusters)),
                **row,
            }


def _fit(table: Measured, panel: Panel, model: tuple[str, ...], family: str) -> _Fit:
    parts = [
        cells(table, metric, panel.target, panel.backbone, panel.cfg).of_family(family)
        for metric in model
    ]
    first = parts[0].rows
    others = [dict(zip(p.rows["tokenizer"], p.rows["x"], strict=True)) for p in parts[1:]]
    everywhere = [all(name in other for other in others) for name in first["tokenizer"]]
    rows = first[np.array(everywhere, dtype=bool)]  # an empty list would choose no columns
    columns = [rows["x"], *(rows["tokenizer"].map(other) for other in others)]
    return _Fit(
        model=model,
        x=np.column_stack([column.to_numpy(float) for column in columns]),
        y=rows["y"].to_numpy(float),
        y_stderr=rows["y_stderr"].to_numpy(float),
        clusters=pd.factorize(rows["cluster"])[0],
        tokenizers=tuple(rows["tokenizer"]),
        note=join_notes(*(part.missing_note() for part in parts)),
    )


def _fit_rows(
    table: Measured, panel: Panel, family: str, fits: Sequence[_Fit], analysis: Analysis
) -> list[dict[str, object]]:
    """Return what each fit says of itself; those of one design are resampled at once."""
    found: dict[int, dict[str, object]] = {}
    alike: dict[tuple[object, ...], list[int]] = {}
    for place, fit in enumerate(fits):
        problem = fit.problem
        if problem:
            found[place] = {"note": join_notes(problem, fit.note)}
            continue
        design = (fit.tokenizers, fit.y.tobytes(), fit.y_stderr.tobytes(), len(fit.model))
        alike.setdefault(design, []).append(place)
    for places in alike.values():
        group = [fits[place] for place in places]
        r2 = _r2_rows(group, analysis)
        held_out = [
            leave_cluster_out(standardise(fit.x), standardise(fit.y), fit.clusters) for fit in group
        ]
        orders = _order_rows(table, panel.target, group, held_out, analysis)
        for place, fit, out, own, (order, note) in zip(
            places, group, held_out, r2, orders, strict=True
        ):
            key = (*panel.labels.values(), family, *fit.model)
            rng = keyed_generator(analysis.seed, *key)
            row, term_note = _terms(fit, analysis, rng)
            q2, rank = _skill(out, standardise(fit.y))
            lonely = "too few clusters to leave one out" if math.isnan(q2) else ""
            row |= {**own, "q2": q2, "q2_rank": rank, **order}
            found[place] = row | {"note": join_notes(lonely, term_note, note, fit.note)}
    return [found[place] for place in range(len(fits))]


def r2_estimator(X: Array, y: Array) -> Estimator:
    """Return R² of least-squares fits with a constant, in [0, 1].

    Args:
        X: (n, k) predictors of one fit, or (n, P, k) of P fits. y: (n,) target.

    Returns:
        The estimator; predictors that are constant or redundant in a resample add nothing to it.
    """
    n, k = len(X), X.shape[-1]
    predictors_ = [standardise(X.reshape(n, -1, k)[:, :, j]) for j in range(k)]  # (n, P) each
    variables = [*predictors_, np.broadcast_to(standardise(y)[:, None], predictors_[0].shape)]

    def weighted(weights: Array) -> Array:
        total = weights.sum(axis=1, keepdims=True)
        means = [weights @ v / total for v in variables]
        cov = {
            (i, j): weights @ (variables[i] * variables[j]) / total - means[i] * means[j]
            for i in range(k + 1)
            for j in range(i, k + 1)
        }
        whole, left = cov[k, k], dict(cov)
        # take the predictors off one after the other, as Gram and Schmidt do
        for j in range(k):
            there = left[j, j] > np.maximum(1e-10 * cov[j, j], 1e-12)
            scale = np.where(there, left[j, j], np.inf)
            for a in range(j + 1, k + 1):
                for b in range(a, k + 1):
                    left[a, b] = left[a, b] - left[j, a] * left[j, b] / scale
        varies = whole > 1e-12
        share = 1 - left[k, k] / np.where(varies, whole, 1.0)
        return np.where(varies, np.clip(share, 0.0, 1.0), np.nan)

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


def _r2_rows(fits: Sequence[_Fit], analysis: Analysis) -> list[dict[str, object]]:
    X, first = np.stack([fit.x for fit in fits], axis=1), fits[0]
    estimator = r2_estimator(X, first.y)
    seed, options = analysis.seed, (analysis.confidence, analysis.resamples)
    n, _, k = X.shape
    plain = bootstrap_intervals(estimator, tokenizer_draws(seed, n), *options)
    draws = cluster_draws(seed, first.clusters)
    cluster = cluster_intervals(estimator, first.clusters, draws, *options)
    return [
        {
            "r2": float(value),
            "r2_adj": float(1 - (1 - value) * (n - 1) / (n - k - 1)),
            **{"r2_low": own.low, "r2_high": own.high, "r2_method": own.method},
            **{"r2_cluster_low": shared.low, "r2_cluster_high": shared.high},
        }
        for value, own, shared in zip(estimator.values, plain, cluster, strict=True)
    ]


def _terms(
    fit: _Fit, analysis: Analysis, rng: np.random.Generator
) -> tuple[dict[str, object], str]:
    """Return standardised coefficients with cluster-robust errors, and what to know of them."""
    y, clusters = standardise(fit.y), fit.clusters
    design = sm.add_constant(standardise(fit.x))
    count, k = len(set(clusters)), len(fit.model)
    model = sm.OLS(y, design)
    note = f"{count} clusters: robust errors are too small, read beta_wild_p"
    if count > k + 1:
        found = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    else:
        found, note = model.fit(), f"{count} clusters: errors as of independent tokenizers"
    ends = found.conf_int(alpha=1 - analysis.confidence)
    row: dict[str, object] = {}
    for term in range(1, k + 1):
        wild = wild_cluster_p(design, y, clusters, term, rng=rng, resamples=analysis.resamples)
        numbers = (found.params[term], found.bse[term], *ends[term], found.pvalues[term], wild)
        row |= {f"{name}_{term}": float(v) for name, v in zip(TERM, numbers, strict=True)}
    row["vif"] = float(variance_inflation_factor(design, 1)) if k > 1 else math.nan
    return row, note if count < 40 else ""


def _order_rows(
    table: Measured,
    target: str,
    fits: Sequence[_Fit],
    held_out: Sequence[Array],
    analysis: Analysis,
) -> list[tuple[dict[str, object], str]]:
    """Return how well each model orders tokenizers, and a note."""
    better, first = higher_is_better(table, target), fits[0]
    found: dict[int, tuple[dict[str, object], str]] = {}
    scores: dict[int, tuple[Array, str]] = {}
    for place, (fit, predicted) in enumerate(zip(fits, held_out, strict=True)):
        sign = expected_sign(table, fit.model[0], target)
        none: dict[str, object] = {"ordering_by": "none"}
        if better is None:
            found[place] = none, f"{target} has no direction: no regret"
        elif len(fit.model) > 1 and np.isnan(predicted).any():
            found[place] = none, ""
        elif len(fit.model) > 1:
            scores[place] = predicted, "predictions for left-out clusters"
        elif sign is None:
            found[place] = none, f"{fit.model[0]} has no direction: it orders nothing"
        else:
            scores[place] = sign * fit.x[:, 0], "declared direction"
    if scores:
        columns = np.column_stack([score for score, _ in scores.values()])
        ordering = order_pairs(columns, first.y, first.y_stderr)
        draws = tokenizer_draws(analysis.seed, len(first.y))
        ends = ordering.intervals(draws, analysis.confidence, analysis.resamples)
        for k, (place, (score, by)) in enumerate(scores.items()):
            found[place] = (
                {
                    "ordering": float(ordering.accuracy[k]),
                    "ordering_pairs": ordering.pairs,
                    "ordering_by": by,
                    "regret": top1_regret(score, first.y, bool(better)),
                    **{"ordering_low": ends[k][0], "ordering_high": ends[k][1]},
                },
                ordering.note,
            )
    return [found[place] for place in range(len(fits))]
