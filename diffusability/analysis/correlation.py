"""Correlation of every latent metric with every generation metric, with what is known of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from diffusability.analysis.disattenuation import disattenuate
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
    bootstrap_interval,
    cluster_interval,
    keyed_generator,
)
from diffusability.analysis.permutation import pairing_p, partial_p, within_p
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import (
    ALL_FAMILIES,
    Cells,
    Panel,
    cells,
    expected_sign,
    families,
    panels,
    predictors,
)

COLUMNS = (
    "target",
    "backbone",
    "cfg",
    "family",
    "metric",
    "statistic",
    "value",
    "low",
    "high",
    "confidence",
    "method",
    "cluster_low",
    "cluster_high",
    "cluster_method",
    "p",
    "p_method",
    "p_holm",
    "p_by",
    "n",
    "clusters",
    "expected_sign",
    "note",
)
PANEL_KEY = ["target", "backbone", "cfg", "family"]
_BEST = "each tokenizer at its own best guidance scale"


class Analysis(Protocol):
    """What an analysis may be told; ``AnalysisSpec`` of a study has these attributes."""

    @property
    def resamples(self) -> int: ...
    @property
    def confidence(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class AnalysisOptions:
    """Bootstrap draws (and permutations), confidence of intervals, seed of both."""

    resamples: int = 9999
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """A metric and a target over the tokenizers of one family, ready to be related."""

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


def correlate(
    table: pd.DataFrame,
    analysis: Analysis | None = None,
    covariates: Sequence[str] = ("reconstruction.psnr",),
) -> pd.DataFrame:
    """Return the table of correlations: one row a panel, family, metric and statistic.

    Statistics: ``pearson``, ``spearman``, ``kendall``; ``pearson_within`` (cluster means taken
    off) and ``pearson_between`` (of cluster means), which part when a trend across clusters is
    not one inside them (Simpson); ``pearson_partial`` given the covariates;
    ``pearson_disattenuated`` (noise of diffusion seeds taken off).

    Args:
        table: a checked tidy table (``check_measurements``).
        analysis: resamples, confidence and seed.
        covariates: metrics held fixed in ``pearson_partial``.

    Returns:
        Values in [-1, 1] of the raw numbers: ``expected_sign``
        is the sign that they have if the metric's declared direction is right. ``low``, ``high``:
        tokenizers as independent, by ``method``; ``cluster_low``, ``cluster_high``: by cluster.
        ``p_holm`` and ``p_by`` correct over the metrics of one panel, family and statistic. An
        empty ``cfg`` is each tokenizer's best scale. What does not exist is NaN, and ``note`` says
        why; every combination has its row. Deterministic given table and options.
    """
    analysis = analysis or AnalysisOptions()
    rows: list[dict[str, object]] = []
    for panel in panels(table):
        known = _covariates(table, panel, covariates)
        for metric in predictors(table):
            rows.extend(_metric_rows(table, panel, metric, known, analysis))
    return _corrected(pd.DataFrame(rows, columns=list(COLUMNS)))


def intercorrelate(
    table: pd.DataFrame, metrics: Sequence[str], analysis: Analysis | None = None
) -> pd.DataFrame:
    """Return how latent metrics go with each other: ``target`` is the second metric of a pair.

    Args:
        table: a checked tidy table. metrics: names; every pair of them is taken once.
        analysis: resamples, confidence and seed.

    Returns:
        Rows as of ``correlate``, with empty backbone and guidance.
    """
    analysis = analysis or AnalysisOptions()
    rows = [
        row
        for place, second in enumerate(metrics)
        for first in metrics[:place]
        for row in _metric_rows(table, Panel(second, "", None), first, {}, analysis)
    ]
    return _corrected(pd.DataFrame(rows, columns=list(COLUMNS)))


def _metric_rows(
    table: pd.DataFrame,
    panel: Panel,
    metric: str,
    covariates: dict[str, pd.Series],
    analysis: Analysis,
) -> Iterator[dict[str, object]]:
    """Yield every row of one metric in one panel: all families together, then each."""
    paired = cells(table, metric, panel.target, panel.backbone, panel.cfg)
    known = {name: values for name, values in covariates.items() if name != metric}
    names = families(table)
    sign = expected_sign(table, metric, panel.target)
    pooled: list[dict[str, object]] = []
    for family in names:
        # one family is all there is: the same numbers under both names
        if family == ALL_FAMILIES or len(names) > 2:
            sample = sample_of(paired.of_family(family), known)
            key = (panel.target, panel.backbone, panel.cfg, family, metric)
            pooled = list(_statistics(sample, analysis, key))
        notes = [sample.part.missing_note(), _BEST if panel.backbone and panel.cfg is None else ""]
        if family == ALL_FAMILIES and len(names) > 2:
            notes.append(f"{len(names) - 1} families pooled, whose latents differ in size")
        for row in pooled:
            labels = {**panel.labels, "family": family, "metric": metric, "n": sample.n}
            # a statistic's own n (clusters of the between part) wins
            row = {**labels, "expected_sign": sign, "confidence": analysis.confidence, **row}
            row["note"] = join_notes(row["note"], *notes)
            yield row


def _covariates(table: pd.DataFrame, panel: Panel, names: Sequence[str]) -> dict[str, pd.Series]:
    known = {}
    for name in names:
        rows = cells(table, name, panel.target, panel.backbone, panel.cfg).rows
        known[name] = rows.set_index("tokenizer")["x"]
    return known


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


def _statistics(
    sample: Sample, analysis: Analysis, key: tuple[object, ...]
) -> Iterator[dict[str, object]]:
    """Yield statistic, value, intervals, p and note of each statistic of a sample."""
    reason = _reason(sample)

    def rng(name: str) -> np.random.Generator:
        return keyed_generator(analysis.seed, *key, name)

    def row(
        name: str, estimator: Estimator, p: float, method: str, note: str = ""
    ) -> dict[str, object]:
        return _row(name, estimator, sample.clusters, analysis, rng(name), (p, method), note)

    if reason:
        names = ["pearson", "spearman", "kendall", "within", "between", "partial", "disattenuated"]
        for name in names:
            yield _absent(name if name in names[:3] else f"pearson_{name}", sample, reason)
        return
    x, y, clusters, draws = sample.x, sample.y, sample.clusters, analysis.resamples
    p = pairing_p(x, y, rng=rng("pearson p"), resamples=draws)
    plain = row("pearson", pearson(x, y), p, "permutation of tokenizers")
    yield plain
    ranks = [stats.rankdata(v) for v in (x, y)]
    p = pairing_p(*ranks, rng=rng("spearman p"), resamples=draws)
    yield row("spearman", spearman(x, y), p, "permutation of tokenizers")
    p = float(stats.kendalltau(x, y).pvalue)
    yield row("kendall", kendall(x, y), p, "permutation distribution of tau (scipy)")
    p, smallest = within_p(x, y, clusters, rng=rng("within p"), resamples=draws)
    note = f"clusters allow no p below {smallest:.2g}" if smallest > 0.01 else ""
    yield row("pearson_within", within(x, y, clusters), p, "permutation inside clusters", note)
    yield _between(sample, analysis, rng("pearson_between"))
    yield _partial(sample, analysis, rng("pearson_partial"))
    yield _disattenuated(sample, plain, analysis, rng("pearson_disattenuated"))


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


def _absent(name: str, sample: Sample, note: str) -> dict[str, object]:
    return {
        "statistic": name,
        "value": math.nan,
        "method": "none",
        "cluster_method": "none",
        "p_method": "none",
        "clusters": len(set(sample.clusters)),
        "note": note,
    }


def _row(
    name: str,
    estimator: Estimator,
    clusters: np.ndarray,
    analysis: Analysis,
    rng: np.random.Generator,
    test: tuple[float, str],
    note: str = "",
) -> dict[str, object]:
    """Return the row of one statistic with its two intervals."""
    options = {"confidence": analysis.confidence, "resamples": analysis.resamples}
    plain = bootstrap_interval(estimator, rng=rng, **options)  # type: ignore[arg-type]
    cluster = cluster_interval(estimator, clusters, rng=rng, **options)  # type: ignore[arg-type]
    return {
        "statistic": name,
        "value": estimator.value,
        "low": plain.low,
        "high": plain.high,
        "method": plain.method,
        "cluster_low": cluster.low,
        "cluster_high": cluster.high,
        "cluster_method": cluster.method,
        "p": test[0],
        "p_method": "none" if math.isnan(test[0]) else test[1],
        "clusters": len(set(clusters)),
        "note": join_notes(note, plain.note, cluster.note),
    }


def _between(sample: Sample, analysis: Analysis, rng: np.random.Generator) -> dict[str, object]:
    """Return the row of r between cluster means; its points are clusters."""
    sizes = np.bincount(sample.clusters)
    x, y = (np.bincount(sample.clusters, v) / sizes for v in (sample.x, sample.y))
    if len(sizes) < 3:
        note = f"{len(sizes)} clusters: no correlation between them"
        return _absent("pearson_between", sample, note) | {"n": len(sizes)}
    p = pairing_p(x, y, rng=rng, resamples=analysis.resamples)
    own = np.arange(len(sizes))
    test = (p, "permutation of clusters")
    note = f"n counts clusters ({sample.n} tokenizers)"
    row = _row("pearson_between", pearson(x, y), own, analysis, rng, test, note)
    # every point is a cluster: resampling clusters is what the plain interval does
    return (
        row
        | {"n": len(sizes), "cluster_low": None, "cluster_high": None}
        | {"cluster_method": "none"}
    )


def _partial(sample: Sample, analysis: Analysis, rng: np.random.Generator) -> dict[str, object]:
    """Return the row of r given the covariates, over the tokenizers that have them."""
    if not sample.given_names:
        return _absent("pearson_partial", sample, "no covariate is held fixed")
    names = ", ".join(sample.given_names)
    there = np.isfinite(sample.given).all(axis=1)
    given, clusters = sample.given[there], pd.factorize(sample.clusters[there])[0]
    n, k = given.shape
    lost = f"; {sample.n - n} tokenizers lack it" if n < sample.n else ""
    note = f"given {names}{lost}"
    if n < k + 4:
        return _absent("pearson_partial", sample, f"{note}: {n} tokenizers are too few") | {"n": n}
    estimator = partial(sample.x[there], sample.y[there], given)
    if math.isnan(estimator.value):
        note += ": nothing is left to correlate"
        return _absent("pearson_partial", sample, note) | {"n": n}
    test = (partial_p(estimator.value, n, k), "Student's t")
    row = _row("pearson_partial", estimator, clusters, analysis, rng, test, note)
    return row | {"n": n}


def _disattenuated(
    sample: Sample, plain: dict[str, object], analysis: Analysis, rng: np.random.Generator
) -> dict[str, object]:
    """Return the row of r with the noise of diffusion seeds taken off."""
    interval = Interval(plain["low"], plain["high"], analysis.confidence, "")  # type: ignore[arg-type]
    found = disattenuate(
        sample.x, sample.y, sample.part.runs, interval, rng=rng, resamples=analysis.resamples
    )
    row = _absent("pearson_disattenuated", sample, found.note)
    if math.isnan(found.value):
        return row
    return row | {
        "value": found.value,
        "low": found.interval.low,
        "high": found.interval.high,
        "method": found.interval.method,
        "note": join_notes(found.note, found.interval.note),
    }


def _corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill Holm's and Benjamini-Yekutieli's p over the metrics of a panel and a statistic."""
    numbers = ["value", "low", "high", "cluster_low", "cluster_high", "p", "p_holm", "p_by"]
    frame = frame.astype(dict.fromkeys([*numbers, "cfg"], float))
    frame["expected_sign"] = frame["expected_sign"].astype(float)
    key = [*PANEL_KEY, "statistic"]
    corrected = {name: np.full(len(frame), np.nan) for name in ("p_holm", "p_by")}
    tested = np.flatnonzero(frame["p"].notna())
    groups = frame.iloc[tested].groupby(key, sort=False, dropna=False).indices
    for places in groups.values():
        p = frame["p"].to_numpy()[tested[places]]
        for column, method in (("p_holm", "holm"), ("p_by", "fdr_by")):
            corrected[column][tested[places]] = multipletests(p, method=method)[1]
    return frame.assign(**corrected)
