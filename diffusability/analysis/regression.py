"""Regression of generation quality on one or two metrics, with cross-validation."""

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

from diffusability.analysis.catalogue import HEADLINE
from diffusability.analysis.estimators import Array, Estimator, standardise
from diffusability.analysis.frames import join_notes, table_frame
from diffusability.analysis.intervals import (
    Analysis,
    AnalysisOptions,
    bootstrap_intervals,
    cluster_draws,
    cluster_intervals,
    keyed_generator,
    tokenizer_draws,
)
from diffusability.analysis.panels import (
    Measured,
    Panel,
    Table,
    cells,
    expected_sign,
    families,
    headline_targets,
    higher_is_better,
    matching,
    panels,
    predictors,
)
from diffusability.analysis.selection import leave_cluster_out, order_pairs, q2_score, top1_regret
from diffusability.analysis.significance import wild_cluster_p


def regress(
    table: Table, analysis: Analysis | None = None, pairs_of: Sequence[str] | None = None
) -> pd.DataFrame:
    """Fit every headline target on every metric, and on every pair of headline metrics.

    Args:
        table: a checked tidy table (``check_measurements``).
        analysis: resamples, confidence and seed.
        pairs_of: metrics whose pairs are fitted, by default those of ``catalogue.HEADLINE``.

    Returns:
        One row per panel, family and model. Metrics and target are standardised, so ``beta`` is in
        standard deviations of the raw numbers; its error is cluster-robust (t with G - 1 degrees
        of freedom), ``beta_wild_p`` is from the wild cluster bootstrap and holds for few clusters.
        ``r2`` in sample, its interval by bootstrap; ``q2`` = 1 - PRESS/SST with whole clusters
        left out (1: perfect, 0: the mean), ``q2_rank`` the rank correlation of
        those predictions; ``vif`` 1: no collinearity; ``ordering``: share of pairs of tokenizers
        ordered correctly, among pairs that differ by more than twice their noise (0.5: chance);
        ``regret``: target of the top-ranked tokenizer minus the best, in its unit (0: best).
        One metric orders by its declared direction, two by predictions for left-out clusters.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    names = predictors(table)
    paired = matching(names, HEADLINE) if pairs_of is None else pairs_of
    models = [(name,) for name in names] + list(combinations(paired, 2))
    there = panels(table, headline_targets(table))
    rows = [row for panel in there for row in _panel_rows(table, panel, models, analysis)]
    return table_frame("regressions", rows)


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
        """The reason why there is no fit, or empty."""
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
    """Yield the rows of every model in one panel, of each model by family."""
    found = {}
    for family in families(table):
        fits = [_fit(table, panel, model, family) for model in models]
        found[family] = fits, _fit_rows(table, panel, family, fits, analysis)
    for index, model in enumerate(models):
        if not any(len(fits[index].y) for fits, _ in found.values()):
            continue
        for family, (fits, rows) in found.items():
            fit = fits[index]
            yield {
                **{**panel.labels, "family": family},
                **{"metric_1": model[0], "metric_2": model[1] if len(model) > 1 else ""},
                **{"n": len(fit.y), "clusters": len(set(fit.clusters)), **rows[index]},
            }


def _fit(table: Measured, panel: Panel, model: tuple[str, ...], family: str) -> _Fit:
    parts = [
        cells(table, metric, panel.target, panel.backbone, panel.guidance).of_family(family)
        for metric in model
    ]
    first = parts[0].rows
    others = [dict(zip(p.rows["tokenizer"], p.rows["x"], strict=True)) for p in parts[1:]]
    everywhere = [all(name in other for other in others) for name in first["tokenizer"]]
    rows = first[np.array(everywhere, dtype=bool)]  # an empty list would select no columns
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
    """Return the rows of the fits; fits of one design are resampled together."""
    found: dict[int, dict[str, object]] = {}
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, fit in enumerate(fits):
        problem = fit.problem
        if problem:
            found[index] = {"note": join_notes(problem, fit.note)}
            continue
        design = (fit.tokenizers, fit.y.tobytes(), fit.y_stderr.tobytes(), len(fit.model))
        alike.setdefault(design, []).append(index)
    for indices in alike.values():
        group = [fits[index] for index in indices]
        r2 = _r2_rows(group, analysis)
        held_out = [
            leave_cluster_out(standardise(fit.x), standardise(fit.y), fit.clusters) for fit in group
        ]
        orders = _order_rows(table, panel.target, group, held_out, analysis)
        for index, fit, out, own, (order, note) in zip(
            indices, group, held_out, r2, orders, strict=True
        ):
            key = (*panel.labels.values(), family, *fit.model)
            rng = keyed_generator(analysis.seed, *key)
            row, term_note = _terms(fit, analysis, rng)
            q2, rank = _skill(out, standardise(fit.y))
            lonely = "too few clusters to leave one out" if math.isnan(q2) else ""
            row |= {**own, "q2": q2, "q2_rank": rank, **order}
            found[index] = row | {"note": join_notes(lonely, term_note, note, fit.note)}
    return [found[index] for index in range(len(fits))]


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
        # Gram-Schmidt: project out the predictors one after the other
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
            **own.columns("r2"),
            **shared.columns("r2", cluster=True),
        }
        for value, own, shared in zip(estimator.values, plain, cluster, strict=True)
    ]


def _terms(
    fit: _Fit, analysis: Analysis, rng: np.random.Generator
) -> tuple[dict[str, object], str]:
    """Return standardised coefficients with cluster-robust errors, and a note."""
    y, clusters = standardise(fit.y), fit.clusters
    design = sm.add_constant(standardise(fit.x))
    count, k = len(set(clusters)), len(fit.model)
    model = sm.OLS(y, design)
    note = f"{count} clusters: intervals of beta are too short, read beta_wild_p"
    if count > k + 1:
        found = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    else:
        found, note = model.fit(), f"{count} clusters: errors for independent tokenizers"
    ends = found.conf_int(alpha=1 - analysis.confidence)
    row: dict[str, object] = {}
    for term in range(1, k + 1):
        wild = wild_cluster_p(design, y, clusters, term, rng=rng, resamples=analysis.resamples)
        numbers = (found.params[term], *ends[term], wild)
        names = (f"beta_{term}{end}" for end in ("", "_low", "_high", "_wild_p"))
        row |= {name: float(number) for name, number in zip(names, numbers, strict=True)}
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
    scores: dict[int, Array] = {}
    for index, (fit, predicted) in enumerate(zip(fits, held_out, strict=True)):
        sign = expected_sign(table, fit.model[0], target)
        if better is None:
            found[index] = {}, f"{target} has no direction: no regret"
        elif len(fit.model) > 1 and np.isnan(predicted).any():
            found[index] = {}, ""
        elif len(fit.model) > 1:
            scores[index] = predicted
        elif sign is None:
            found[index] = {}, f"{fit.model[0]} has no direction: it gives no order"
        else:
            scores[index] = sign * fit.x[:, 0]
    if scores:
        columns = np.column_stack(list(scores.values()))
        ordering = order_pairs(columns, first.y, first.y_stderr)
        draws = tokenizer_draws(analysis.seed, len(first.y))
        ends = ordering.intervals(draws, analysis.confidence, analysis.resamples)
        for k, (index, score) in enumerate(scores.items()):
            found[index] = (
                {
                    "ordering": float(ordering.accuracy[k]),
                    "ordering_pairs": ordering.pairs,
                    "regret": top1_regret(score, first.y, bool(better)),
                    **{"ordering_low": ends[k][0], "ordering_high": ends[k][1]},
                },
                ordering.note,
            )
    return [found[index] for index in range(len(fits))]
