"""Comparison of dependent correlations: two metrics for one target, or one metric on two backbones.

Correlations are sign-oriented: positive means that the metric predicts in its declared direction.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusability.analysis.catalogue import COMPARED, FISHER_PROXIES, HEADLINE, LATENT_PROXIES
from diffusability.analysis.estimators import Array, Estimator, difference, pearson, standardise
from diffusability.analysis.frames import join_notes, table_frame
from diffusability.analysis.intervals import (
    SMALL,
    Analysis,
    AnalysisOptions,
    Interval,
    bootstrap_intervals,
    cluster_draws,
    cluster_intervals,
    fisher_interval,
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
    matching,
    panels,
    predictors,
)
from diffusability.analysis.significance import williams
from diffusability.analysis.snapshots import at_last_step


def zou_interval(
    first: Estimator, second: Estimator, r12: float, confidence: float, index: int = 0
) -> tuple[float, float]:
    """Return the interval of r1 - r2 from the two intervals of Fisher's z (Zou 2007, Eq. 13).

    Args:
        first: r1 of one or more pairs. second: r2. r12: of the two variables not shared.
        confidence: nominal coverage. index: of the pair.
    """
    r1, r2 = (float(estimator.values[index]) for estimator in (first, second))
    (low1, high1), (low2, high2) = (
        fisher_interval(estimator, confidence, index) for estimator in (first, second)
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


def compare(table: Table, analysis: Analysis | None = None) -> pd.DataFrame:
    """Compare the headline metrics with each other, and each between backbones.

    Args:
        table: a checked tidy table. analysis: resamples, confidence and seed.

    Returns:
        Rows of kind ``metrics`` and ``backbones``, see ``compare_pairs``, ``compare_backbones``.
    """
    table = Measured.of(table)
    names = predictors(table)
    pairs = list(combinations(matching(names, COMPARED), 2))
    parts = [
        compare_pairs(table, pairs, analysis),
        compare_backbones(table, matching(names, HEADLINE), analysis),
    ]
    there = [part for part in parts if len(part)]
    return pd.concat(there, ignore_index=True) if there else parts[0]


def compare_pairs(
    table: Table, pairs: Sequence[tuple[str, str]], analysis: Analysis | None = None
) -> pd.DataFrame:
    """Compare the correlations of the two metrics of each pair with each headline target.

    Args:
        table: a checked tidy table. pairs: of names. analysis: resamples, confidence and seed.

    Returns:
        One row per pair, panel and family: ``value`` = r_a - r_b of oriented correlations over the
        tokenizers that have both metrics (positive: a is the better predictor), intervals from
        paired resamples, p of Williams' test. NaN with a ``note`` if undefined.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    rows = [
        row
        for panel in panels(table, headline_targets(table))
        for row in _panel_rows(table, ("metrics", panel, panel), pairs, analysis)
    ]
    return table_frame("comparisons", rows)


def compare_backbones(
    table: Table, metrics: Sequence[str], analysis: Analysis | None = None
) -> pd.DataFrame:
    """Compare the correlations of a metric with the same target on two backbones.

    Args:
        table: a checked tidy table. metrics: names. analysis: resamples, confidence and seed.

    Returns:
        Rows as in ``compare_pairs``, for every ordered pair of backbones at one guidance scale,
        so that a claim may select either order.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    there = list(panels(table, headline_targets(table)))
    both = [
        (a, b)
        for a, b in product(there, there)
        if (a.target, a.guidance) == (b.target, b.guidance) and a.backbone != b.backbone
    ]
    same = [(metric, metric) for metric in metrics]
    rows = [row for a, b in both for row in _panel_rows(table, ("backbones", a, b), same, analysis)]
    return table_frame("comparisons", rows)


@dataclass(frozen=True)
class _Pair:
    """Two metrics, or one on two backbones, over the tokenizers that have both.

    Attributes:
        x: (n, 2) metrics. y: (n, 2) their targets. signs: of the declared directions, or None.
        tokenizers: (n,) names. clusters: (n,) codes. note: what was omitted.
    """

    x: Array
    y: Array
    signs: tuple[int | None, int | None]
    tokenizers: tuple[str, ...]
    clusters: NDArray[np.int64]
    note: str

    @property
    def counts(self) -> dict[str, object]:
        """Numbers of tokenizers and clusters."""
        return {"n": len(self.tokenizers), "clusters": len(set(self.clusters))}


def _panel_rows(
    table: Measured,
    where: tuple[str, Panel, Panel],
    pairs: Sequence[tuple[str, str]],
    analysis: Analysis,
) -> Iterator[dict[str, object]]:
    """Yield the rows of every pair of metrics, of each pair by family."""
    kind, *both = where
    found = {
        family: _comparisons([_pair(table, both, pair, family) for pair in pairs], kind, analysis)
        for family in families(table)
    }
    for index, pair in enumerate(pairs):
        for family, rows in found.items():
            labels = {
                **{"kind": kind, "target": both[0].target, "guidance": both[0].guidance},
                **{"family": family, "metric_a": pair[0], "metric_b": pair[1]},
                **{"backbone_a": both[0].backbone, "backbone_b": both[1].backbone},
            }
            yield {**labels, **rows[index]}


def _pair(
    table: Measured, panels_: Sequence[Panel], metrics: tuple[str, str], family: str
) -> _Pair:
    parts = [
        cells(table, metric, panel.target, panel.backbone, panel.guidance).of_family(family).rows
        for metric, panel in zip(metrics, panels_, strict=True)
    ]
    first, second = (
        dict(zip(part["tokenizer"], part[["x", "y"]].to_numpy(float), strict=True))
        for part in parts
    )
    shared = [name for name in first if name in second]
    # tokenizers may be averaged over fewer runs where one metric is missing
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
        note=f"{lost} tokenizers have only one of the two" if lost else "",
    )


def _comparisons(pairs: Sequence[_Pair], kind: str, analysis: Analysis) -> list[dict[str, object]]:
    """Return the rows of pairs; pairs over the same tokenizers are vectorised."""
    found: dict[int, dict[str, object]] = {}
    by_tokenizers: dict[tuple[str, ...], list[int]] = {}
    for index, pair in enumerate(pairs):
        n = len(pair.tokenizers)
        if n < 3 or not standardise(np.hstack([pair.x, pair.y])).any(axis=0).all():
            reason = "fewer than 3 tokenizers or a constant column: nothing to compare"
            found[index] = pair.counts | {"note": join_notes(reason, pair.note)}
        else:
            by_tokenizers.setdefault(pair.tokenizers, []).append(index)
    for indices in by_tokenizers.values():
        rows = _compared([pairs[index] for index in indices], kind, analysis)
        found |= dict(zip(indices, rows, strict=True))
    return [found[index] for index in range(len(pairs))]


def _compared(pairs: Sequence[_Pair], kind: str, analysis: Analysis) -> list[dict[str, object]]:
    """Return the differences of two oriented correlations over the same tokenizers."""
    x, y = (np.stack([getattr(pair, side) for pair in pairs], axis=1) for side in "xy")
    raw = np.stack([pearson(x[:, :, k], y[:, :, k]).values for k in (0, 1)], axis=1)  # (P, 2)
    signs = [
        [_sign(r) if s is None else s for s, r in zip(p.signs, own, strict=True)]
        for p, own in zip(pairs, raw, strict=True)
    ]
    x = x * np.array(signs)
    first, second = (pearson(x[:, :, k], y[:, :, k]) for k in (0, 1))
    # the two variables not shared: the metrics, or the targets on the two backbones
    sides = x if kind == "metrics" else y
    between = pearson(sides[:, :, 0], sides[:, :, 1]).values
    plain, cluster = _intervals(first, second, between, pairs[0].clusters, analysis)
    rows = []
    for pair, r_a, r_b, r12, own, shared in zip(
        pairs, first.values, second.values, between, plain, cluster, strict=True
    ):
        turned = "no declared direction: oriented by the data" if None in pair.signs else ""
        row = {
            **{"r_a": r_a, "r_b": r_b, "value": r_a - r_b, "low": own.low, "high": own.high},
            **{"cluster_low": shared.low, "cluster_high": shared.high},
            "williams_p": williams(r_a, r_b, r12, len(pair.tokenizers))[1],
            "note": join_notes(turned, own.note, shared.note, pair.note),
        }
        rows.append(pair.counts | row)
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
    """Return the paired bootstrap intervals, widened by Zou's for few tokenizers."""
    gap, seed = difference(first, second), analysis.seed
    options = (analysis.confidence, analysis.resamples)
    plain = bootstrap_intervals(gap, tokenizer_draws(seed, gap.points), *options)
    cluster = cluster_intervals(gap, clusters, cluster_draws(seed, clusters), *options)
    if gap.points >= SMALL:
        return plain, cluster
    zou = [
        zou_interval(first, second, float(r12), analysis.confidence, index)
        for index, r12 in enumerate(between)
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


UNDECIDED = "undecided"


def compare_proxies(
    table: Table,
    correlations: pd.DataFrame,
    analysis: Analysis | None = None,
    papers: Sequence[Sequence[str]] = (LATENT_PROXIES, FISHER_PROXIES),
) -> pd.DataFrame:
    """Compare the correlations of the two papers' proxies with each headline target.

    The first, "Diffusing in the Right Space" (arXiv 2606.03578), has VIV and the metrics of the
    other perspectives; the second, "Understanding Latent Diffusability via Fisher Geometry" (arXiv
    2604.02751), has FI, FIR and the MMSE rate along the noise, and their deviations from pixels.

    Args:
        table: a checked tidy table. correlations: ``correlate`` of the same table.
        analysis: resamples, confidence and seed. papers: patterns of each paper's proxies.

    Returns:
        One row per pair, panel and family. ``r_a`` and ``r_b``: Pearson's r over the tokenizers
        that have both, positive if it agrees with the proxy's declared direction; ``low_a`` to
        ``high_b``: their intervals over the tokenizers that have the respective proxy. ``value`` =
        r_a - r_b with intervals from paired resamples, as of ``compare_pairs``. ``better``: the
        proxy that is stronger for all values in both intervals; else ``undecided``, or empty
        without an interval. There are no rows without proxies of both papers.
    """
    table = Measured.of(table)
    first, second = (matching(predictors(table), patterns) for patterns in papers)
    found = compare_pairs(table, list(product(first, second)), analysis)
    keys = ["target", "backbone", "guidance", "family", "metric"]
    last = at_last_step(correlations)
    single = {tuple(row[k] for k in keys): row for row in last.to_dict("records")}
    rows = []
    for row in found.to_dict("records"):
        own: dict[Hashable, Any] = {"backbone": row["backbone_a"], "better": better_proxy(row)}
        for side in "ab":
            panel = (row["target"], row["backbone_a"], row["guidance"], row["family"])
            other = single.get((*panel, row[f"metric_{side}"]))
            if other is None:
                continue
            own[f"low_{side}"], own[f"high_{side}"] = _oriented(other)
            if other["n"] != row["n"]:
                note = f"the interval of {other['metric']} is over {other['n']:g} tokenizers"
                row["note"] = join_notes(row["note"], note)
        rows.append(row | own)
    return table_frame("proxies", [{str(k): v for k, v in row.items()} for row in rows])


def difference_interval(row: Mapping[Hashable, Any]) -> tuple[float, float]:
    """Return the hull of the existing intervals of a difference, NaN if there are none."""
    lows, highs = (
        [float(row[c]) for c in (end, f"cluster_{end}") if pd.notna(row[c])]
        for end in ("low", "high")
    )
    return (min(lows), max(highs)) if lows and highs else (math.nan, math.nan)


def better_proxy(row: Mapping[Hashable, Any]) -> str:
    """Return the significantly stronger metric of a pair, ``undecided``, or "" if unknown."""
    low, high = difference_interval(row)
    if math.isnan(low):
        return ""
    if low > 0 or high < 0:
        return str(row["metric_a"] if low > 0 else row["metric_b"])
    return UNDECIDED


def _oriented(row: Mapping[Hashable, Any]) -> tuple[float, float]:
    """Return the sign-oriented interval of a correlation."""
    sign = row["expected_sign"] if pd.notna(row["expected_sign"]) else row["pearson"]
    low, high = row["pearson_low"], row["pearson_high"]
    return (-high, -low) if sign < 0 else (low, high)
