"""Comparison of two studies or two tokenizers: specification, metrics and rank."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.catalogue import RECONSTRUCTION, REPRESENTATIVES
from diffusability.analysis.frames import join_notes
from diffusability.analysis.measurements import read_measurements, target_metric
from diffusability.analysis.panels import (
    Measured,
    cells,
    higher_is_better,
)
from diffusability.errors import StudyError
from diffusability.study.core.commands import current_run, set_run, snakemake_command
from diffusability.study.core.problems import nearest
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.targets import table_file
from diffusability.study.reading.load import load_study
from diffusability.study.study import Study

ABSENT = "(absent)"
BETTER = {True: "higher", False: "lower", None: "-"}
SPEC_COLUMNS = ("key", "a", "b")
COLUMNS = (
    *("tokenizer", "metric", "backbone", "guidance", "a", "stderr_a", "b", "stderr_b"),
    *("difference", "stderr", "low", "high", "better", "rank_a", "rank_b", "of_a", "of_b", "note"),
)
RANK_COLUMNS = ("family", "metric", "backbone", "guidance", "kendall", "n", "note")


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
    """Return the tidy table of a study, or None, and a message on its state.

    Raises:
        MeasurementError: the file exists but is not a tidy table.
    """
    path = Path(table_file(study, "measurements"))
    if not path.exists():
        return (
            None,
            f"{path}: does not exist yet. Make it with: {snakemake_command('-c2', 'tables')}",
        )
    table = read_measurements(path)
    if set(table["fingerprint"]) != {artifact.fingerprint for artifact in Plan(study).measured}:
        return Measured(table), f"{path}: contains measurements of another state of the study"
    return Measured(table), ""


def headline_patterns(*studies: Study) -> list[str]:
    """Return the metrics that a comparison shows by default."""
    reconstruction = [RECONSTRUCTION]
    targets = filter(None, map(target_metric, studies))
    return list(dict.fromkeys([*REPRESENTATIVES.values(), *reconstruction, *targets]))


def compare_tokenizers(
    table: Measured, a: str, b: str, patterns: Sequence[str] = ("*",), confidence: float = 0.95
) -> pd.DataFrame:
    """Compare two tokenizers of one study, metric by metric.

    Args:
        table: the study. a: name of the first. b: of the second.
        patterns: shell patterns of metrics. confidence: of the intervals.

    Returns:
        One row per metric, backbone and guidance scale: means over seeds with standard errors,
        ``difference`` b - a with its interval, the ``better`` direction, ranks among the tokenizers
        of its family (1 is best). Errors are over trainings, and the interval is Student's with
        Welch's degrees of freedom; of a single training they are of its images alone, too small for
        a difference of methods, and ``note`` says so.
    """
    rows = []
    for metric, backbone, guidance in _keys(table, patterns):
        ranked = _ranked(table, metric, backbone, guidance)
        sides = (_side(ranked, a), _side(ranked, b))
        row = _row(metric, backbone, guidance, sides, higher_is_better(table, metric), confidence)
        rows.append(row | {"tokenizer": f"{a} -> {b}"})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def compare_studies(
    a: Measured, b: Measured, patterns: Sequence[str] = ("*",), confidence: float = 0.95
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare two studies over all tokenizers, metrics, backbones and scales of either.

    Returns:
        Rows as in ``compare_tokenizers``, one per tokenizer and metric; and the agreement of the
        two orders of the tokenizers of a family that both have: Kendall's tau (1: same order, -1:
        reversed), by metric. Values missing in one study give a row with a ``note``.
    """
    keys = list(dict.fromkeys([*_keys(a, patterns), *_keys(b, patterns)]))
    names = list(dict.fromkeys([*a.tokenizers["tokenizer"], *b.tokenizers["tokenizer"]]))
    rows, ranks = [], []
    for metric, backbone, guidance in keys:
        first, second = (_ranked(table, metric, backbone, guidance) for table in (a, b))
        for name in names:
            sides = (_side(first, name), _side(second, name))
            better = higher_is_better(a if metric in a.rows else b, metric)
            row = _row(metric, backbone, guidance, sides, better, confidence)
            rows.append(row | {"tokenizer": name})
        where = {"metric": metric, "backbone": backbone, "guidance": guidance}
        ranks += [{"family": family} | where | order for family, order in _orders(first, second)]
    return (
        pd.DataFrame(rows, columns=list(COLUMNS)),
        pd.DataFrame(ranks, columns=list(RANK_COLUMNS)),
    )


def _keys(table: Measured, patterns: Sequence[str]) -> Iterator[tuple[str, str, float | None]]:
    """Yield metric, backbone and scale (or None) of the metrics that match the patterns."""
    for metric in table.metrics:
        if any(fnmatchcase(metric, pattern) for pattern in patterns):
            keys = table.rows[metric][["backbone", "guidance"]].drop_duplicates()
            for backbone, guidance in keys.itertuples(index=False, name=None):
                yield metric, backbone, None if pd.isna(guidance) else float(guidance)


def _ranked(table: Measured, metric: str, backbone: str, guidance: float | None) -> pd.DataFrame:
    """Return what is known of every tokenizer that has the metric, by name.

    Mean ``y`` and its error ``y_stderr`` of ``df`` degrees of freedom (infinite where it is the
    error of one measurement), number of ``runs``, ``rank`` among the ``of`` of its family.
    """
    found = cells(table, metric, metric, backbone, guidance)
    rows, better = found.rows.set_index("tokenizer"), higher_is_better(table, metric)
    of_family = rows.groupby("family")["y"]
    rank = of_family.rank(ascending=not better) if better is not None else np.nan
    runs = found.runs.groupby("tokenizer")
    trainings, different = runs["tokenizer_seed"].nunique(), runs["y"].nunique()
    df = np.where(trainings > 1, trainings - 1, np.where(different > 1, runs.size() - 1, np.inf))
    known = pd.DataFrame({"runs": runs.size(), "df": df})
    return rows.assign(rank=rank, of=of_family.transform("size")).join(known)


def _side(ranked: pd.DataFrame, name: str) -> dict[str, float]:
    names = ("value", "stderr", "df", "rank", "of", "runs")
    if name not in ranked.index:
        return dict.fromkeys(names, math.nan)
    row = ranked.rename(columns={"y": "value", "y_stderr": "stderr"}).loc[name]
    found = row[list(names)].astype(float).to_dict()
    return {str(key): float(value) for key, value in found.items()}


def _row(
    metric: str,
    backbone: str,
    guidance: float | None,
    sides: tuple[dict[str, float], dict[str, float]],
    better: bool | None,
    confidence: float,
) -> dict[str, object]:
    a, b = sides
    difference = b["value"] - a["value"]
    error = math.hypot(a["stderr"], b["stderr"])
    lost = sum(s["stderr"] ** 4 / s["df"] for s in sides)  # Welch and Satterthwaite
    df = error**4 / lost if lost > 0 else math.inf
    reach = float(stats.t.ppf(0.5 + confidence / 2, df)) * error
    missing = [side for side, known in zip("ab", sides, strict=True) if math.isnan(known["value"])]
    notes = [f"not measured on {side}" for side in missing]
    if not missing and math.isnan(error):
        notes.append("a standard error is unknown: no interval")
    single = [side for side, s in zip("ab", sides, strict=True) if s["runs"] == 1]
    if single and not missing:
        notes.append(f"one training of {' and '.join(single)}: ± of its images alone")
    return {
        **{"metric": metric, "backbone": backbone, "guidance": guidance},
        **{f"{key}_{n}": s[key] for n, s in zip("ab", sides, strict=True) for key in s},
        **{"a": a["value"], "b": b["value"], "difference": difference, "stderr": error},
        **{"low": difference - reach, "high": difference + reach},
        "better": better,
        "note": join_notes(*notes),
    }


def _orders(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield how two orders agree, by family: those of different families are not comparable."""
    for family in dict.fromkeys([*a["family"], *b["family"]]):
        yield str(family), _order(a[a["family"] == family], b[b["family"] == family])


def _order(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, object]:
    shared = [name for name in a.index if name in b.index]
    x, y = a.loc[shared, "y"].to_numpy(float), b.loc[shared, "y"].to_numpy(float)
    row: dict[str, object] = {"kendall": math.nan, "n": len(shared), "note": ""}
    if len(shared) < 3:
        return row | {"note": f"{len(shared)} tokenizers in both: no agreement of orders"}
    if not (np.ptp(x) and np.ptp(y)):
        return row | {"note": "one of the two is constant: no agreement of orders"}
    return row | {"kendall": float(stats.kendalltau(x, y).statistic)}


SHOWN = [
    "tokenizer",
    "metric",
    "backbone",
    "guidance",
    "a",
    "b",
    "difference",
    "interval",
    "better",
    "ranks",
]


def comparison_text(
    study_files: Sequence[str],
    a: str,
    b: str,
    every: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """Return the differences of A and B in specification, metrics and rank.

    Args:
        study_files: the study whose tokenizers A and B may name.
        a: a tokenizer of that study, or the path of a study file. b: a second one of the same kind.
        every: whether all metrics are compared, not only the headline metrics.
        overrides: keys that narrow or change the studies, as for `load_study`.

    Raises:
        StudyError: A and B are neither two tokenizers of the study nor two study files.
    """
    paths = [Path(name) for name in (a, b)]
    if all(path.is_file() for path in paths):
        return _two_studies((a, b), every, overrides)
    study = load_study(study_files, overrides)
    for name, path in zip((a, b), paths, strict=True):
        if name not in study.tokenizers:
            other = " (the other is no study file)" if path.is_file() else ""
            hint = nearest(name, study.tokenizers)
            raise StudyError(
                f"{name}: no tokenizer of {', '.join(study_files)} ({hint}){other}; "
                "give two study files, or two tokenizers of one study"
            )
    return _two_tokenizers(study, a, b, every)


def _two_tokenizers(study: Study, a: str, b: str, every: bool) -> str:
    specs = [study.tokenizers[name].canonical() for name in (a, b)]
    table, problem = read_measured(study)
    parts = [f"A = {a}, B = {b}, of study {study.name}", _specs(*specs)]
    if table is None:
        return "\n\n".join([*parts, f"Nothing is measured: {problem}"])
    parts += [f"Note: {problem}"] if problem else []
    patterns = ["*"] if every else headline_patterns(study)
    rows = compare_tokenizers(table, a, b, patterns, study.analysis.confidence)
    return "\n\n".join([*parts, _measured(rows.drop(columns="tokenizer"), every)])


def _two_studies(files: tuple[str, str], every: bool, overrides: Mapping[str, Any] | None) -> str:
    a, b = (load_study(file, overrides) for file in files)
    found = []
    for file, study in zip(files, (a, b), strict=True):
        set_run(replace(current_run(), files=[file], overrides={}))  # named in a message
        found.append(read_measured(study))
    tables, problems = zip(*found, strict=True)
    parts = [f"A = {a.name}, B = {b.name}", _specs(a.canonical(), b.canonical())]
    first, second = tables
    if first is None or second is None:
        missing = [f"Not measured: {problem}" for problem in problems if problem]
        return "\n\n".join([*parts, *missing])
    parts += [f"Note: {problem}" for problem in problems if problem]
    patterns = ["*"] if every else headline_patterns(a, b)
    rows, orders = compare_studies(first, second, patterns, a.analysis.confidence)
    agreement = _text(orders.round({"kendall": 2}))
    title = "Agreement of the two rankings of common tokenizers (Kendall's tau)"
    return "\n\n".join([*parts, _measured(rows, every), f"{title}\n{agreement}"])


def _specs(a: dict[str, Any], b: dict[str, Any]) -> str:
    found = compare_specs(a, b)
    if found.empty:
        return "Specification: no difference"
    return f"Specification: {len(found)} keys differ\n{_text(found)}"


def _measured(rows: pd.DataFrame, every: bool) -> str:
    """Return the rows as text, with the significant digits of each number."""
    if rows.empty:
        return "Measured: neither has any of these metrics"
    shown = rows.assign(
        a=[_plus(v, e) for v, e in zip(rows["a"], rows["stderr_a"], strict=True)],
        b=[_plus(v, e) for v, e in zip(rows["b"], rows["stderr_b"], strict=True)],
        difference=[_number(v) for v in rows["difference"]],
        interval=[_interval(v, w) for v, w in zip(rows["low"], rows["high"], strict=True)],
        better=[BETTER[value] for value in rows["better"]],
        ranks=[_ranks(row) for row in rows.to_dict("records")],
    )
    columns = [name for name in SHOWN if name in shown]
    columns += ["note"] if (rows["note"] != "").any() else []
    more = "" if every else " (--all: every metric)"
    return f"Measured: B - A, rank 1 is best{more}\n{_text(shown[columns])}"


def _text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, na_rep="-")


def _number(value: float, digits: int = 4) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}g}"


def _plus(value: float, error: float) -> str:
    return _number(value) if pd.isna(error) else f"{_number(value)} ± {_number(error, 2)}"


def _interval(low: float, high: float) -> str:
    return "-" if pd.isna(low) else f"[{_number(low)}, {_number(high)}]"


def _ranks(row: dict[Any, Any]) -> str:
    sides = [
        "-" if pd.isna(row[f"rank_{side}"]) else f"{row[f'rank_{side}']:g} of {row[f'of_{side}']:g}"
        for side in "ab"
    ]
    return " -> ".join(sides)
