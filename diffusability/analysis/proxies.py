"""The proxies of the two papers against each other: which one predicts generation better.

The first, "Diffusing in the Right Space" (arXiv 2606.03578), has VIV and the metrics of the other
perspectives; the second, "Understanding Latent Diffusability via Fisher Geometry" (arXiv
2604.02751), has FI, FIR and the MMSE rate along the noise, and their deviations from pixel space.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from diffusability.analysis.comparison import compare_pairs
from diffusability.analysis.options import Analysis
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import Table
from diffusability.fisher.deviation import DEVIATIONS

# of fits and as trained models learned them, class-conditional and without classes
FISHER_PROXIES = tuple(
    f"fisher.{source}{name}{condition}"
    for source in ("", "learned_")
    for name in ("fi", "fir", "mmse_rate", *DEVIATIONS)
    for condition in ("", "_unconditional")
)
UNDECIDED = "undecided"
COLUMNS = (
    *("target", "backbone", "cfg", "family", "metric_a", "metric_b"),
    *("r_a", "low_a", "high_a", "r_b", "low_b", "high_b", "value", "low", "high", "confidence"),
    *("method", "cluster_low", "cluster_high", "cluster_method", "better", "n", "clusters", "note"),
)
_NUMBERS = (
    *("cfg", "r_a", "low_a", "high_a", "r_b", "low_b", "high_b", "value", "low", "high"),
    *("confidence", "cluster_low", "cluster_high", "n", "clusters"),
)


def compare_proxies(
    table: Table,
    first: Sequence[str],
    second: Sequence[str],
    correlations: pd.DataFrame,
    analysis: Analysis | None = None,
) -> pd.DataFrame:
    """Compare how strongly each proxy of either paper goes with each target.

    Args:
        table: a checked tidy table. first: metrics of the first paper. second: of the second.
        correlations: of ``correlate`` on the same table.
        analysis: resamples, confidence and seed.

    Returns:
        One row a pair, panel and family. ``r_a`` and ``r_b``: Pearson's r of the tokenizers that
        have both, oriented, positive where the proxy points the way that it declares; ``low_a`` to
        ``high_b``: their intervals over the tokenizers that have that one. ``value`` = r_a - r_b
        with intervals from paired resamples, as of ``compare_pairs``. ``better``: the proxy that is
        the stronger wherever the difference may be in either interval; else ``undecided``, and
        empty where there is no interval. Without proxies of both papers there is no row.
    """
    found = compare_pairs(table, list(product(first, second)), analysis)
    pearson = correlations[correlations["statistic"] == "pearson"].to_dict("records")
    single = {_place(row, row["backbone"], row["metric"]): row for row in pearson}
    rows = []
    for row in found.to_dict("records"):
        own: dict[Hashable, Any] = {"backbone": row["backbone_a"], "better": better_proxy(row)}
        for side in "ab":
            other = single[_place(row, row["backbone_a"], row[f"metric_{side}"])]
            own[f"low_{side}"], own[f"high_{side}"] = _oriented(other)
            if other["n"] != row["n"]:
                note = f"the interval of {other['metric']} is over {other['n']} tokenizers"
                row["note"] = join_notes(row["note"], note)
        rows.append(row | own)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(_NUMBERS, float))


def difference_interval(row: Mapping[Hashable, Any]) -> tuple[float, float]:
    """Return the hull of the intervals of a difference that there are, NaN where there is none."""
    lows, highs = (
        [float(row[c]) for c in (end, f"cluster_{end}") if pd.notna(row[c])]
        for end in ("low", "high")
    )
    return (min(lows), max(highs)) if lows and highs else (math.nan, math.nan)


def better_proxy(row: Mapping[Hashable, Any]) -> str:
    """Return the metric that is surely the stronger of a pair, ``undecided``, or "" if unknown."""
    low, high = difference_interval(row)
    if math.isnan(low):
        return ""
    if low > 0 or high < 0:
        return str(row["metric_a"] if low > 0 else row["metric_b"])
    return UNDECIDED


def _place(row: Mapping[Hashable, Any], backbone: str, metric: str) -> tuple[object, ...]:
    cfg = None if pd.isna(row["cfg"]) else float(row["cfg"])
    return row["target"], backbone, cfg, row["family"], metric


def _oriented(row: Mapping[Hashable, Any]) -> tuple[float, float]:
    """Return the interval of a correlation in the direction in which comparisons take it."""
    sign = row["expected_sign"] if pd.notna(row["expected_sign"]) else row["value"]
    if pd.isna(row["low"]):
        return math.nan, math.nan
    return (row["low"], row["high"]) if not sign < 0 else (-row["high"], -row["low"])
