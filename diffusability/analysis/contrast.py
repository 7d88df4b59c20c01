"""What differs between two studies, or two tokenizers of one: specification, metrics, rank."""

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.headline import HEADLINE_METRICS, target_metric
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import (
    Measured,
    cells,
    higher_is_better,
    read_measurements,
)
from diffusability.study.commands import snakemake_command
from diffusability.study.plan import Plan
from diffusability.study.study import Study
from diffusability.study.targets import table_file

ABSENT = "(absent)"
SPEC_COLUMNS = ("key", "a", "b")
COLUMNS = (
    *("tokenizer", "metric", "backbone", "cfg", "a", "stderr_a", "b", "stderr_b"),
    *("difference", "stderr", "low", "high", "z", "rank_a", "rank_b", "of_a", "of_b", "note"),
)
RANK_COLUMNS = ("metric", "backbone", "cfg", "kendall", "p", "n", "note")


def compare_specs(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    """Return the keys in which two resolved specifications differ, with both values."""
    return pd.DataFrame(list(_spec_rows(a, b, "")), columns=list(SPEC_COLUMNS))


def _spec_rows(
    a: Mapping[str, Any], b: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, ...]]:
    for key in dict.fromkeys([*a, *b]):
        path = f"{prefix}{key}"
        if key not in a or key not in b:
            there = "present" if isinstance(a.get(key, b.get(key)), Mapping) else None
            yield (path, *(there or str(s[key]) if key in s else ABSENT for s in (a, b)))
        elif isinstance(a[key], Mapping) and isinstance(b[key], Mapping):
            yield from _spec_rows(a[key], b[key], f"{path}.")
        elif a[key] != b[key]:
            yield path, str(a[key]), str(b[key])


def read_measured(study: Study) -> tuple[Measured | None, str]:
    """Return the tidy table of a study, or None, and what to know or do about it.

    Raises:
        MeasurementError: the file is there and is no tidy table.
    """
    path = Path(table_file(study, "measurements"))
    if not path.exists():
        return None, f"{path}: not there yet. Make it with: {snakemake_command('-c2', 'tables')}"
    table = read_measurements(path)
    if set(table["fingerprint"]) != {artifact.fingerprint for artifact in Plan(study).measured}:
        return Measured(table), f"{path}: holds the measurements of another state of the study"
    return Measured(table), ""


def headline_patterns(*studies: Study) -> list[str]:
    """Return the metrics that a comparison shows unless all are asked for."""
    reconstruction = ["reconstruction.psnr"]
    return list(
        dict.fromkeys([*HEADLINE_METRICS.values(), *reconstruction, *map(target_metric, studies)])
    )


def compare_tokenizers(
    table: Measured, a: str, b: str, patterns: Sequence[str] = ("*",), confidence: float = 0.95
) -> pd.DataFrame:
    """Compare two tokenizers of one study, metric by metric.

    Args:
        table: the study. a: name of the first. b: of the second.
        patterns: shell patterns of metrics. confidence: of the intervals.

    Returns:
        One row a metric, backbone and guidance scale: means over seeds with standard errors,
        ``difference`` b - a with its normal interval and z, ranks among the tokenizers of the
        study (1 is best by the declared direction). Both were measured on the same images, whose
        common part is not taken off: the standard error of the difference is rather too large.
    """
    rows = []
    for metric, backbone, cfg in _places(table, patterns):
        ranked = _ranked(table, metric, backbone, cfg)
        sides = (_side(ranked, a), _side(ranked, b))
        rows.append(_row(metric, backbone, cfg, sides, confidence) | {"tokenizer": f"{a} -> {b}"})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compare_studies(
    a: Measured, b: Measured, patterns: Sequence[str] = ("*",), confidence: float = 0.95
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare two studies over the tokenizers, metrics, backbones and scales that either has.

    Returns:
        Rows as of ``compare_tokenizers``, one a tokenizer and metric; and the agreement of the
        two orders of the tokenizers that both have: Kendall's tau (1: same order, -1: reversed)
        with its p, by metric. What one study lacks is a row with a ``note``.
    """
    places = list(dict.fromkeys([*_places(a, patterns), *_places(b, patterns)]))
    names = list(dict.fromkeys([*a.tokenizers["tokenizer"], *b.tokenizers["tokenizer"]]))
    rows, ranks = [], []
    for metric, backbone, cfg in places:
        first, second = (_ranked(table, metric, backbone, cfg) for table in (a, b))
        for name in names:
            sides = (_side(first, name), _side(second, name))
            rows.append(_row(metric, backbone, cfg, sides, confidence) | {"tokenizer": name})
        ranks.append({"metric": metric, "backbone": backbone, "cfg": cfg} | _order(first, second))
    return (
        pd.DataFrame(rows, columns=list(COLUMNS)),
        pd.DataFrame(ranks, columns=list(RANK_COLUMNS)),
    )


def _places(table: Measured, patterns: Sequence[str]) -> Iterator[tuple[str, str, float | None]]:
    """Yield metric, backbone and scale (None: none applies) of what the patterns choose."""
    for metric in table.metrics:
        if any(fnmatchcase(metric, pattern) for pattern in patterns):
            keys = table.rows[metric][["backbone", "cfg"]].drop_duplicates()
            for backbone, cfg in keys.itertuples(index=False, name=None):
                yield metric, backbone, None if pd.isna(cfg) else float(cfg)


def _ranked(table: Measured, metric: str, backbone: str, cfg: float | None) -> pd.DataFrame:
    """Return mean, standard error and rank of every tokenizer that has the metric, by name."""
    rows = cells(table, metric, metric, backbone, cfg).rows.set_index("tokenizer")
    better = higher_is_better(table, metric)
    rank = rows["y"].rank(ascending=not better) if better is not None else np.nan
    return rows.assign(rank=rank)


def _side(ranked: pd.DataFrame, name: str) -> dict[str, float]:
    if name not in ranked.index:
        return {"value": math.nan, "stderr": math.nan, "rank": math.nan, "of": len(ranked)}
    value, stderr, rank = (float(ranked[c].to_dict()[name]) for c in ("y", "y_stderr", "rank"))
    return {"value": value, "stderr": stderr, "rank": rank, "of": len(ranked)}


def _row(
    metric: str,
    backbone: str,
    cfg: float | None,
    sides: tuple[dict[str, float], dict[str, float]],
    confidence: float,
) -> dict[str, object]:
    a, b = sides
    difference = b["value"] - a["value"]
    error = math.hypot(a["stderr"], b["stderr"])
    reach = float(stats.norm.ppf(0.5 + confidence / 2)) * error
    missing = [side for side, known in zip("ab", sides, strict=True) if math.isnan(known["value"])]
    notes = [f"not measured on {side}" for side in missing]
    if not missing and math.isnan(error):
        notes.append("a standard error is unknown: no interval")
    return {
        **{"metric": metric, "backbone": backbone, "cfg": cfg},
        **{f"{key}_{n}": s[key] for n, s in zip("ab", sides, strict=True) for key in s},
        **{"a": a["value"], "b": b["value"], "difference": difference, "stderr": error},
        **{"low": difference - reach, "high": difference + reach},
        "z": difference / error if error > 0 else math.nan,
        "note": join_notes(*notes),
    }


def _order(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, object]:
    shared = [name for name in a.index if name in b.index]
    x, y = a.loc[shared, "y"].to_numpy(float), b.loc[shared, "y"].to_numpy(float)
    row: dict[str, object] = {"kendall": math.nan, "p": math.nan, "n": len(shared), "note": ""}
    if len(shared) < 3:
        return row | {"note": f"{len(shared)} tokenizers in both: no agreement of orders"}
    if not (np.ptp(x) and np.ptp(y)):
        return row | {"note": "one of the two is constant: no agreement of orders"}
    found = stats.kendalltau(x, y)
    return row | {"kendall": float(found.statistic), "p": float(found.pvalue)}
