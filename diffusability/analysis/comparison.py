"""Comparison of dependent correlations: two metrics of one target, or two backbones of one metric.

Correlations are oriented first: positive means that the metric points the way that it declares.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from diffusability.analysis.correlation import Analysis, AnalysisOptions
from diffusability.analysis.estimators import Estimator, difference, pearson, standardise
from diffusability.analysis.intervals import (
    SMALL,
    Interval,
    bootstrap_interval,
    cluster_interval,
    fisher_interval,
    keyed_generator,
)
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import (
    ALL_FAMILIES,
    Panel,
    cells,
    expected_sign,
    families,
    panels,
)

COLUMNS = (
    "kind",
    "target",
    "cfg",
    "family",
    "metric_a",
    "metric_b",
    "backbone_a",
    "backbone_b",
    "r_a",
    "r_b",
    "value",
    "low",
    "high",
    "confidence",
    "method",
    "cluster_low",
    "cluster_high",
    "cluster_method",
    "williams_t",
    "williams_p",
    "steiger_z",
    "steiger_p",
    "n",
    "clusters",
    "note",
)


def williams(r1: float, r2: float, r12: float, n: int) -> tuple[float, float]:
    """Return Williams' t of two correlations that share a variable, and its two-sided p.

    Args:
        r1: r of the shared variable with the first. r2: with the second. r12: of those two.
        n: points; the test has n - 3 degrees of freedom (Steiger 1980, Eq. 7).

    Returns:
        t (positive: the first is larger) and p; NaN where the test does not exist.
    """
    determinant = 1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12
    if n < 4 or math.isnan(determinant):
        return math.nan, math.nan
    mean = (r1 + r2) / 2
    below = 2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - r12) ** 3
    if below <= 1e-15:
        return math.nan, math.nan
    t = (r1 - r2) * math.sqrt((n - 1) * (1 + r12) / below)
    return t, float(2 * stats.t.sf(abs(t), n - 3))


def steiger(r1: float, r2: float, r12: float, n: int) -> tuple[float, float]:
    """Return Steiger's Z of two correlations that share a variable, and its two-sided p.

    Args:
        r1: r of the shared variable with the first. r2: with the second. r12: of those two.
        n: points (Steiger 1980, Eq. 14, with the mean correlation in the covariance).

    Returns:
        Z (positive: the first is larger) and p; NaN where the test does not exist.
    """
    if n < 4 or not max(abs(r1), abs(r2)) < 1 - 1e-12 or math.isnan(r12):
        return math.nan, math.nan
    square = ((r1 + r2) / 2) ** 2
    shared = r12 * (1 - 2 * square) - square * (1 - 2 * square - r12**2) / 2
    left = 2 - 2 * shared / (1 - square) ** 2
    if left <= 1e-12:
        return math.nan, math.nan
    z = (math.atanh(r1) - math.atanh(r2)) * math.sqrt((n - 3) / left)
    return z, float(2 * stats.norm.sf(abs(z)))


def zou_interval(
    first: Estimator, second: Estimator, r12: float, confidence: float
) -> tuple[float, float]:
    """Return the interval of r1 - r2 from the two intervals of Fisher's z (Zou 2007, Eq. 13)."""
    r1, r2 = first.value, second.value
    (low1, high1), (low2, high2) = (fisher_interval(e, confidence) for e in (first, second))
    scale = (1 - r1**2) * (1 - r2**2)
    shared = (r12 - r1 * r2 / 2) * (1 - r1**2 - r2**2 - r12**2) + r12**3
    c = float(np.clip(shared / scale, -1, 1)) if scale > 1e-12 else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a + b * b - 2 * c * a * b, 0.0))

    return (
        r1 - r2 - reach(r1 - low1, high2 - r2),
        r1 - r2 + reach(high1 - r1, r2 - low2),
    )


def compare_metrics(
    table: pd.DataFrame, metrics: Sequence[str], analysis: Analysis | None = None
) -> pd.DataFrame:
    """Compare how strongly two metrics go with each target: every pair in every panel.

    Args:
        table: a checked tidy table. metrics: names; every pair of them is taken once.
        analysis: resamples, confidence and seed.

    Returns:
        One row a pair, panel and family: ``value`` = r_a - r_b of oriented correlations over the
        tokenizers that have both metrics (positive: a is the better predictor), intervals from
        paired resamples, tests of Williams and Steiger. NaN with a ``note`` where impossible.
    """
    analysis = analysis or AnalysisOptions()
    rows = [
        row
        for panel in panels(table)
        for first, second in combinations(metrics, 2)
        for row in _pair_rows(table, ("metrics", panel, panel), (first, second), analysis)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compare_backbones(
    table: pd.DataFrame, metrics: Sequence[str], analysis: Analysis | None = None
) -> pd.DataFrame:
    """Compare how strongly a metric goes with the same target on two backbones.

    Args:
        table: a checked tidy table. metrics: names. analysis: resamples, confidence and seed.

    Returns:
        Rows as of ``compare_metrics``, for every ordered pair of backbones at one guidance scale,
        so that a selection may name either first.
    """
    analysis = analysis or AnalysisOptions()
    pairs = [
        (a, b)
        for a in panels(table)
        for b in panels(table)
        if (a.target, a.cfg) == (b.target, b.cfg) and a.backbone != b.backbone
    ]
    rows = [
        row
        for a, b in pairs
        for metric in metrics
        for row in _pair_rows(table, ("backbones", a, b), (metric, metric), analysis)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _pair_rows(
    table: pd.DataFrame,
    where: tuple[str, Panel, Panel],
    metrics: tuple[str, str],
    analysis: Analysis,
) -> Iterator[dict[str, object]]:
    kind, *both = where
    parts = [
        cells(table, metric, panel.target, panel.backbone, panel.cfg).rows
        for metric, panel in zip(metrics, both, strict=True)
    ]
    joined = parts[0].merge(parts[1][["tokenizer", "x", "y"]], on="tokenizer", suffixes=("", "_b"))
    signs = [expected_sign(table, metric, both[0].target) for metric in metrics]
    # the same tokenizers may be averaged over fewer runs where one metric is missing
    lost = len(set(parts[0]["tokenizer"]) ^ set(parts[1]["tokenizer"]))
    names = families(table)
    row: dict[str, object] = {}
    for family in names:
        labels = {
            "kind": kind,
            "target": both[0].target,
            "cfg": both[0].labels["cfg"],
            "family": family,
            "metric_a": metrics[0],
            "metric_b": metrics[1],
            "backbone_a": both[0].backbone,
            "backbone_b": both[1].backbone,
        }
        # one family is all there is: the same numbers under both names
        if family == ALL_FAMILIES or len(names) > 2:
            chosen = joined if family == ALL_FAMILIES else joined[joined["family"] == family]
            rng = keyed_generator(analysis.seed, *labels.values())
            row = _comparison(chosen, kind, signs, analysis, rng)
        partly = f"{lost} tokenizers have one of the two only" if lost else ""
        yield {**labels, **row, "note": join_notes(row["note"], partly)}


def _comparison(
    joined: pd.DataFrame,
    kind: str,
    signs: Sequence[int | None],
    analysis: Analysis,
    rng: np.random.Generator,
) -> dict[str, object]:
    """Return the difference of two oriented correlations over the same tokenizers."""
    n, clusters = len(joined), pd.factorize(joined["cluster"])[0]
    row: dict[str, object] = {
        "n": n,
        "clusters": len(set(clusters)),
        "confidence": analysis.confidence,
        "method": "none",
        "cluster_method": "none",
    }
    x, y, x_b, y_b = (joined[c].to_numpy(float) for c in ("x", "y", "x_b", "y_b"))
    if n < 3 or not all(standardise(values).any() for values in (x, y, x_b, y_b)):
        return row | {"note": "fewer than 3 tokenizers or a constant column: nothing to compare"}
    raw = [pearson(x, y), pearson(x_b, y_b)]
    known = [
        sign if sign is not None else _sign(e.value) for sign, e in zip(signs, raw, strict=True)
    ]
    note = "no declared direction: oriented by the data" if None in signs else ""
    first, second = pearson(known[0] * x, y), pearson(known[1] * x_b, y_b)
    # the two variables that are not shared: the metrics, or the target on either backbone
    sides = (known[0] * x, known[1] * x_b) if kind == "metrics" else (y, y_b)
    r12 = pearson(*sides).value
    t, p = williams(first.value, second.value, r12, n)
    z, steiger_p = steiger(first.value, second.value, r12, n)
    plain, cluster = _intervals(first, second, r12, clusters, analysis, rng)
    return row | {
        "r_a": first.value,
        "r_b": second.value,
        "value": first.value - second.value,
        **{"low": plain.low, "high": plain.high, "method": plain.method},
        **{"cluster_low": cluster.low, "cluster_high": cluster.high},
        "cluster_method": cluster.method,
        **{"williams_t": t, "williams_p": p, "steiger_z": z, "steiger_p": steiger_p},
        "note": join_notes(note, plain.note, cluster.note),
    }


def _sign(value: float) -> int:
    return -1 if value < 0 else 1


def _intervals(
    first: Estimator,
    second: Estimator,
    r12: float,
    clusters: NDArray[np.int64],
    analysis: Analysis,
    rng: np.random.Generator,
) -> tuple[Interval, Interval]:
    """Return the paired bootstrap intervals; few tokenizers widen them by Zou's."""
    gap = difference(first, second)
    confidence, draws = analysis.confidence, analysis.resamples
    plain = bootstrap_interval(gap, rng=rng, confidence=confidence, resamples=draws)
    cluster = cluster_interval(gap, clusters, rng=rng, confidence=confidence, resamples=draws)
    if gap.points >= SMALL:
        return plain, cluster
    zou = zou_interval(first, second, r12, confidence)
    return _hull(plain, zou), _hull(cluster, zou)


def _hull(interval: Interval, ends: tuple[float, float]) -> Interval:
    if interval.low is None or interval.high is None:
        return interval
    return Interval(
        min(interval.low, ends[0]),
        max(interval.high, ends[1]),
        interval.confidence,
        f"hull of {interval.method} and Zou (fewer than {SMALL} tokenizers)",
        interval.note,
    )
