"""Comparison of dependent correlations: two metrics of one target, or two backbones of one metric.

Correlations are oriented first: positive means that the metric points the way that it declares.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from diffusability.analysis.estimators import Array, Estimator, difference, pearson, standardise
from diffusability.analysis.intervals import (
    SMALL,
    Interval,
    bootstrap_intervals,
    cluster_draws,
    cluster_intervals,
    fisher_interval,
    tokenizer_draws,
)
from diffusability.analysis.options import Analysis, AnalysisOptions
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import (
    ALL_FAMILIES,
    Measured,
    Panel,
    Table,
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
    first: Estimator, second: Estimator, r12: float, confidence: float, place: int = 0
) -> tuple[float, float]:
    """Return the interval of r1 - r2 from the two intervals of Fisher's z (Zou 2007, Eq. 13).

    Args:
        first: r1 of one or more pairs. second: r2. r12: of the variables that are not shared.
        confidence: nominal coverage. place: of the pair.
    """
    r1, r2 = (float(estimator.values[place]) for estimator in (first, second))
    (low1, high1), (low2, high2) = (
        fisher_interval(estimator, confidence, place) for estimator in (first, second)
    )
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
    table: Table, metrics: Sequence[str], analysis: Analysis | None = None
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
    return compare_pairs(table, list(combinations(metrics, 2)), analysis)


def compare_pairs(
    table: Table, pairs: Sequence[tuple[str, str]], analysis: Analysis | None = None
) -> pd.DataFrame:
    """Compare how strongly the two metrics of each pair go with each target, in every panel.

    Args:
        table: a checked tidy table. pairs: of names. analysis: resamples, confidence and seed.

    Returns:
        Rows as of ``compare_metrics``.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    rows = [
        row
        for panel in panels(table)
        for row in _panel_rows(table, ("metrics", panel, panel), pairs, analysis)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compare_backbones(
    table: Table, metrics: Sequence[str], analysis: Analysis | None = None
) -> pd.DataFrame:
    """Compare how strongly a metric goes with the same target on two backbones.

    Args:
        table: a checked tidy table. metrics: names. analysis: resamples, confidence and seed.

    Returns:
        Rows as of ``compare_metrics``, for every ordered pair of backbones at one guidance scale,
        so that a selection may name either first.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    both = [
        (a, b)
        for a in panels(table)
        for b in panels(table)
        if (a.target, a.cfg) == (b.target, b.cfg) and a.backbone != b.backbone
    ]
    same = [(metric, metric) for metric in metrics]
    rows = [row for a, b in both for row in _panel_rows(table, ("backbones", a, b), same, analysis)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class _Pair:
    """Two metrics, or one on two backbones, over the tokenizers that have both.

    Attributes:
        x: (n, 2) metrics. y: (n, 2) their targets. signs: declared directions, None unknown.
        tokenizers: (n,) names. clusters: (n,) codes. note: what was left out.
    """

    x: Array
    y: Array
    signs: tuple[int | None, int | None]
    tokenizers: tuple[str, ...]
    clusters: NDArray[np.int64]
    note: str


def _panel_rows(
    table: Measured,
    where: tuple[str, Panel, Panel],
    pairs: Sequence[tuple[str, str]],
    analysis: Analysis,
) -> Iterator[dict[str, object]]:
    """Yield the rows of every pair of metrics: all families together, then each."""
    kind, *both = where
    names = families(table)
    found: dict[str, list[dict[str, object]]] = {}
    for family in names:
        # one family is all there is: the same numbers under both names
        if family == ALL_FAMILIES or len(names) > 2:
            chosen = [_pair(table, both, pair, family) for pair in pairs]
            found[family] = _comparisons(chosen, kind, analysis)
        else:
            found[family] = found[ALL_FAMILIES]
    for place, pair in enumerate(pairs):
        for family in names:
            labels = {
                "kind": kind,
                "target": both[0].target,
                "cfg": both[0].labels["cfg"],
                "family": family,
                "metric_a": pair[0],
                "metric_b": pair[1],
                "backbone_a": both[0].backbone,
                "backbone_b": both[1].backbone,
            }
            yield {**labels, **found[family][place]}


def _pair(
    table: Measured, panels_: Sequence[Panel], metrics: tuple[str, str], family: str
) -> _Pair:
    parts = [
        cells(table, metric, panel.target, panel.backbone, panel.cfg).of_family(family).rows
        for metric, panel in zip(metrics, panels_, strict=True)
    ]
    first, second = (
        dict(zip(part["tokenizer"], part[["x", "y"]].to_numpy(float), strict=True))
        for part in parts
    )
    shared = [name for name in first if name in second]
    # the same tokenizers may be averaged over fewer runs where one metric is missing
    lost = len(first.keys() ^ second.keys())
    values = np.array([(*first[name], *second[name]) for name in shared]).reshape(-1, 4)
    a, b = (expected_sign(table, metric, panels_[0].target) for metric in metrics)
    rows = parts[0][parts[0]["tokenizer"].isin(second)]
    return _Pair(
        x=values[:, ::2],
        y=values[:, 1::2],
        signs=(a, b),
        tokenizers=tuple(shared),
        clusters=pd.factorize(rows["cluster"])[0],
        note=f"{lost} tokenizers have one of the two only" if lost else "",
    )


def _comparisons(pairs: Sequence[_Pair], kind: str, analysis: Analysis) -> list[dict[str, object]]:
    """Return the rows of pairs; those over the same tokenizers are compared at once."""
    found: dict[int, dict[str, object]] = {}
    alike: dict[tuple[str, ...], list[int]] = {}
    for place, pair in enumerate(pairs):
        n = len(pair.tokenizers)
        if n < 3 or not standardise(np.hstack([pair.x, pair.y])).any(axis=0).all():
            reason = "fewer than 3 tokenizers or a constant column: nothing to compare"
            found[place] = _empty(pair, analysis) | {"note": join_notes(reason, pair.note)}
        else:
            alike.setdefault(pair.tokenizers, []).append(place)
    for places in alike.values():
        rows = _compared([pairs[place] for place in places], kind, analysis)
        found |= dict(zip(places, rows, strict=True))
    return [found[place] for place in range(len(pairs))]


def _empty(pair: _Pair, analysis: Analysis) -> dict[str, object]:
    return {
        "n": len(pair.tokenizers),
        "clusters": len(set(pair.clusters)),
        "confidence": analysis.confidence,
        "method": "none",
        "cluster_method": "none",
    }


def _compared(pairs: Sequence[_Pair], kind: str, analysis: Analysis) -> list[dict[str, object]]:
    """Return the differences of two oriented correlations over the same tokenizers."""
    x, y = (np.stack([getattr(pair, side) for pair in pairs], axis=1) for side in "xy")
    raw = np.stack([pearson(x[:, :, k], y[:, :, k]).values for k in (0, 1)], axis=1)  # (P, 2)
    known = np.array(
        [
            [_sign(r) if s is None else s for s, r in zip(p.signs, own, strict=True)]
            for p, own in zip(pairs, raw, strict=True)
        ]
    )
    x = x * known
    first, second = (pearson(x[:, :, k], y[:, :, k]) for k in (0, 1))
    # the two variables that are not shared: the metrics, or the target on either backbone
    sides = x if kind == "metrics" else y
    between = pearson(sides[:, :, 0], sides[:, :, 1]).values
    plain, cluster = _intervals(first, second, between, pairs[0].clusters, analysis)
    rows = []
    values = np.stack([first.values, second.values], axis=1)
    for place, pair in enumerate(pairs):
        r_a, r_b = map(float, values[place])
        n, r12 = len(pair.tokenizers), float(between[place])
        t, p = williams(r_a, r_b, r12, n)
        z, steiger_p = steiger(r_a, r_b, r12, n)
        own, shared = plain[place], cluster[place]
        turned = "no declared direction: oriented by the data" if None in pair.signs else ""
        row = {
            **{"r_a": r_a, "r_b": r_b, "value": r_a - r_b},
            **{"low": own.low, "high": own.high, "method": own.method},
            **{"cluster_low": shared.low, "cluster_high": shared.high},
            "cluster_method": shared.method,
            **{"williams_t": t, "williams_p": p, "steiger_z": z, "steiger_p": steiger_p},
            "note": join_notes(turned, own.note, shared.note, pair.note),
        }
        rows.append(_empty(pair, analysis) | row)
    return rows


def _sign(value: float) -> int:
    return -1 if value < 0 else 1


def _intervals(
    first: Estimator,
    second: Estimator,
    between: Array,
    clusters: NDArray[np.int64],
    analysis: Analysis,
) -> tuple[list[Interval], list[Interval]]:
    """Return the paired bootstrap intervals; few tokenizers widen them by Zou's."""
    gap, seed = difference(first, second), analysis.seed
    options = (analysis.confidence, analysis.resamples)
    plain = bootstrap_intervals(gap, tokenizer_draws(seed, gap.points), *options)
    cluster = cluster_intervals(gap, clusters, cluster_draws(seed, clusters), *options)
    if gap.points >= SMALL:
        return plain, cluster
    zou = [
        zou_interval(first, second, float(r12), analysis.confidence, place)
        for place, r12 in enumerate(between)
    ]
    return (
        [_hull(interval, ends) for interval, ends in zip(plain, zou, strict=True)],
        [_hull(interval, ends) for interval, ends in zip(cluster, zou, strict=True)],
    )


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
