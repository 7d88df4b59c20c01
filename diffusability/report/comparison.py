"""`diffusability compare`: two study files, or two tokenizers of one study, as text."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from diffusability.analysis.contrast import (
    compare_specs,
    compare_studies,
    compare_tokenizers,
    headline_patterns,
    read_measured,
)
from diffusability.errors import StudyError
from diffusability.study.commands import current_run, set_run
from diffusability.study.load import load_study
from diffusability.study.problems import nearest
from diffusability.study.study import Study

SHOWN = ["tokenizer", "metric", "backbone", "cfg", "a", "b", "difference", "interval", "z", "ranks"]


def comparison_text(study_files: Sequence[str], a: str, b: str, every: bool = False) -> str:
    """Return what differs between A and B in specification, metrics and rank.

    Args:
        study_files: the study whose tokenizers A and B may name.
        a: a tokenizer of that study, or the path of a study file. b: another of the same kind.
        every: whether all metrics are compared, not only those that stand for a perspective.

    Raises:
        StudyError: A and B are neither two tokenizers of the study nor two study files.
    """
    paths = [Path(name) for name in (a, b)]
    if all(path.is_file() for path in paths):
        return _two_studies((a, b), every)
    study = load_study(study_files)
    for name, path in zip((a, b), paths, strict=True):
        if name not in study.tokenizers:
            kind = "a study file, but the other is not" if path.is_file() else "no study file and"
            hint = nearest(name, study.tokenizers)
            raise StudyError(
                f"{name}: {kind} no tokenizer of {', '.join(study_files)} ({hint}); "
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


def _two_studies(files: tuple[str, str], every: bool) -> str:
    a, b = map(load_study, files)
    found = []
    for file, study in zip(files, (a, b), strict=True):
        set_run(replace(current_run(), files=[file], overrides={}))  # that a message speaks of
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
    agreement = _text(orders.round({"kendall": 2, "p": 3}))
    title = "Do both put their common tokenizers in one order? (Kendall's tau)"
    return "\n\n".join([*parts, _measured(rows, every), f"{title}\n{agreement}"])


def _specs(a: dict[str, Any], b: dict[str, Any]) -> str:
    found = compare_specs(a, b)
    if found.empty:
        return "Specification: no difference"
    return f"Specification: {len(found)} keys differ\n{_text(found)}"


def _measured(rows: pd.DataFrame, every: bool) -> str:
    """Return the rows as text: numbers with the digits that their errors leave."""
    if rows.empty:
        return "Measured: neither has any of these metrics"
    shown = rows.assign(
        a=[_plus(v, e) for v, e in zip(rows["a"], rows["stderr_a"], strict=True)],
        b=[_plus(v, e) for v, e in zip(rows["b"], rows["stderr_b"], strict=True)],
        difference=[_number(v) for v in rows["difference"]],
        interval=[_interval(v, w) for v, w in zip(rows["low"], rows["high"], strict=True)],
        z=[_number(v, 2) for v in rows["z"]],
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
        "-" if pd.isna(row[f"rank_{side}"]) else f"{row[f'rank_{side}']:g} of {row[f'of_{side}']}"
        for side in "ab"
    ]
    return " -> ".join(sides)
