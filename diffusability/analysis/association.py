"""Every statistic of many metrics and one target over the same tokenizers, at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.disattenuation import disattenuate, varies_by_run
from diffusability.analysis.estimators import (
    Array,
    Estimator,
    kendall,
    partial,
    pearson,
    spearman,
    standardise,
    within,
)
from diffusability.analysis.intervals import (
    Interval,
    bootstrap_intervals,
    cluster_draws,
    cluster_intervals,
    tokenizer_draws,
)
from diffusability.analysis.options import Analysis
from diffusability.analysis.permutation import (
    pairing_p,
    partial_p,
    shared_permutations,
    shared_within,
    within_p,
)
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import Cells

STATISTICS = (
    *("pearson", "spearman", "kendall", "pearson_within", "pearson_between"),
    *("pearson_partial", "pearson_disattenuated"),
)
Row = dict[str, object]


@dataclass(frozen=True)
class Sample:
    """A metric and a target over the tokenizers of one family, ready to be related.

    Attributes:
        x: (n,) metric. y: (n,) target. clusters: (n,) codes 0 ... G-1.
        given: (n, k) covariates, NaN where a tokenizer lacks one. given_names: their names.
        part: the cells behind them.
    """

    x: Array
    y: Array
    clusters: np.ndarray
    given: Array
    given_names: tuple[str, ...]
    part: Cells

    @property
    def n(self) -> int:
        """Number of tokenizers."""
        return len(self.x)

    @property
    def design(self) -> tuple[object, ...]:
        """What samples must share to be related at once: tokenizers, target and its runs."""
        runs = self.part.runs["y"].to_numpy(float)
        return (*self.part.rows["tokenizer"], self.y.tobytes(), runs.tobytes())


def sample_of(part: Cells, given: dict[str, pd.Series]) -> Sample:
    """Return the arrays of paired cells; covariates that a tokenizer lacks are NaN."""
    rows, names = part.rows, tuple(given)
    columns = [rows["tokenizer"].map(values).to_numpy(float) for values in given.values()]
    held = np.column_stack(columns) if columns else np.empty((len(rows), 0))
    return Sample(
        x=rows["x"].to_numpy(float),
        y=rows["y"].to_numpy(float),
        clusters=pd.factorize(rows["cluster"])[0],
        given=held,
        given_names=names,
        part=part,
    )


def statistics_of(samples: dict[str, Sample], analysis: Analysis) -> dict[str, list[Row]]:
    """Return the rows of each metric of a panel: samples of one design are related at once."""
    found: dict[str, list[Row]] = {}
    alike: dict[tuple[object, ...], dict[str, Sample]] = {}
    for metric, sample in samples.items():
        reason = _reason(sample)
        if reason:
            found[metric] = [_absent(name, sample.clusters, reason) for name in STATISTICS]
        else:
            alike.setdefault(sample.design, {})[metric] = sample
    for group in alike.values():
        rows = _related(list(group.values()), analysis)
        found |= {metric: [row[k] for row in rows] for k, metric in enumerate(group)}
    return found


def _related(samples: list[Sample], analysis: Analysis) -> list[list[Row]]:
    """Return the rows of P samples of one design: for every statistic, a row a sample."""
    first, seed, resamples = samples[0], analysis.seed, analysis.resamples
    x, y = np.column_stack([sample.x for sample in samples]), first.y
    clusters = first.clusters
    orders = shared_permutations(seed, len(y), resamples)
    plain = _rows("pearson", pearson(x, y), clusters, analysis)
    _tested(plain, pairing_p(x, y, orders), "permutation of tokenizers")
    ranked = _rows("spearman", spearman(x, y), clusters, analysis)
    rank_x, rank_y = (stats.rankdata(values, axis=0) for values in (x, y))
    _tested(ranked, pairing_p(rank_x, rank_y, orders), "permutation of tokenizers")
    paired = _rows("kendall", kendall(x, y), clusters, analysis)
    tau = [float(stats.kendalltau(column, y).pvalue) for column in x.T]
    _tested(paired, tau, "permutation distribution of tau (scipy)")
    p, smallest = within_p(x, y, clusters, shared_within(seed, clusters, resamples))
    note = f"clusters allow no p below {smallest:.2g}" if smallest > 0.01 else ""
    inside = _rows("pearson_within", within(x, y, clusters), clusters, analysis, note)
    _tested(inside, p, "permutation inside clusters")
    return [
        *(plain, ranked, paired, inside),
        _between(x, y, clusters, analysis),
        _partials(samples, analysis),
        _disattenuated(samples, plain, analysis),
    ]


def _reason(sample: Sample) -> str:
    """Say why nothing at all can be computed, empty where it can."""
    if sample.n < 3:
        return f"{sample.n} tokenizers have both numbers: no correlation"
    flat = [
        name
        for name, values in (("metric", sample.x), ("target", sample.y))
        if not standardise(values).any()
    ]
    return f"the {' and the '.join(flat)} is constant: no correlation" if flat else ""


def _absent(name: str, clusters: np.ndarray, note: str) -> Row:
    return {
        "statistic": name,
        "value": math.nan,
        "method": "none",
        "cluster_method": "none",
        "p_method": "none",
        "clusters": len(set(clusters)),
        "note": note,
    }


def _rows(
    name: str, estimator: Estimator, clusters: np.ndarray, analysis: Analysis, note: str = ""
) -> list[Row]:
    """Return the rows of one statistic of P pairs with their two intervals, not tested yet."""
    seed, options = analysis.seed, (analysis.confidence, analysis.resamples)
    plain = bootstrap_intervals(estimator, tokenizer_draws(seed, estimator.points), *options)
    clustered = cluster_intervals(estimator, clusters, cluster_draws(seed, clusters), *options)
    return [
        {
            "statistic": name,
            "value": float(value),
            **{"low": own.low, "high": own.high, "method": own.method},
            **{"cluster_low": shared.low, "cluster_high": shared.high},
            "cluster_method": shared.method,
            "clusters": len(set(clusters)),
            "note": join_notes(note, own.note, shared.note),
        }
        for value, own, shared in zip(estimator.values, plain, clustered, strict=True)
    ]


def _tested(rows: list[Row], p: Sequence[float] | Array, method: str) -> None:
    """Put the p-value of each row beside its interval."""
    for row, value in zip(rows, p, strict=True):
        row |= {"p": float(value), "p_method": "none" if math.isnan(value) else method}


def _between(x: Array, y: Array, clusters: np.ndarray, analysis: Analysis) -> list[Row]:
    """Return the rows of r between cluster means; its points are clusters."""
    sizes = np.bincount(clusters)
    count = len(sizes)
    if count < 3:
        note = f"{count} clusters: no correlation between them"
        row = _absent("pearson_between", clusters, note) | {"n": count}
        return [dict(row) for _ in x.T]
    members = np.eye(count)[clusters] / sizes  # (n, G)
    means = members.T @ x, members.T @ y
    note = f"n counts clusters ({len(y)} tokenizers)"
    rows = _rows("pearson_between", pearson(*means), np.arange(count), analysis, note)
    orders = shared_permutations(analysis.seed, count, analysis.resamples)
    _tested(rows, pairing_p(*means, orders), "permutation of clusters")
    # every point is a cluster: resampling clusters is what the plain interval does
    own: Row = {"n": count, "cluster_low": None, "cluster_high": None, "cluster_method": "none"}
    return [row | own for row in rows]


def _partials(samples: list[Sample], analysis: Analysis) -> list[Row]:
    """Return the rows of r given the covariates; those with the same ones are related at once."""
    found: dict[int, Row] = {}
    alike: dict[tuple[object, ...], list[int]] = {}
    for place, sample in enumerate(samples):
        alike.setdefault((sample.given_names, sample.given.tobytes()), []).append(place)
    for places in alike.values():
        rows = _given([samples[place] for place in places], analysis)
        found |= dict(zip(places, rows, strict=True))
    return [found[place] for place in range(len(samples))]


def _given(samples: list[Sample], analysis: Analysis) -> list[Row]:
    """Return the rows of r given one set of covariates, over the tokenizers that have them."""
    first, name = samples[0], "pearson_partial"
    if not first.given_names:
        return [_absent(name, s.clusters, "no covariate is held fixed") for s in samples]
    there = np.isfinite(first.given).all(axis=1)
    given, clusters = first.given[there], pd.factorize(first.clusters[there])[0]
    n, k = given.shape
    lost = f"; {first.n - n} tokenizers lack it" if n < first.n else ""
    note = f"given {', '.join(first.given_names)}{lost}"
    if n < k + 4:
        reason = f"{note}: {n} tokenizers are too few"
        return [_absent(name, s.clusters, reason) | {"n": n} for s in samples]
    x = np.column_stack([sample.x[there] for sample in samples])
    estimator = partial(x, first.y[there], given)
    rows = _rows(name, estimator, clusters, analysis, note)
    _tested(rows, [partial_p(r, n, k) for r in estimator.values], "Student's t")
    nothing = _absent(name, clusters, f"{note}: nothing is left to correlate")
    known = np.isfinite(estimator.values)
    return [(row if ok else dict(nothing)) | {"n": n} for row, ok in zip(rows, known, strict=True)]


def _disattenuated(samples: list[Sample], plain: list[Row], analysis: Analysis) -> list[Row]:
    """Return the rows of r with the noise of diffusion seeds taken off."""
    first = samples[0]
    found = disattenuate(
        np.column_stack([sample.x for sample in samples]),
        first.y,
        first.part.runs,
        [Interval(r["low"], r["high"], analysis.confidence, "") for r in plain],  # type: ignore[arg-type]
        [varies_by_run(sample.part.runs) for sample in samples],
        tokenizer_draws(analysis.seed, first.n),
        analysis.resamples,
    )
    rows = []
    for one in found:
        row = _absent("pearson_disattenuated", first.clusters, one.note)
        if not math.isnan(one.value):
            row |= {"value": one.value, "low": one.interval.low, "high": one.interval.high}
            row |= {"method": one.interval.method}
            row |= {"note": join_notes(one.note, one.interval.note)}
        rows.append(row)
    return rows
