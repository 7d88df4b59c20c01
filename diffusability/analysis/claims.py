"""The claims ledger: what the paper says, as data, and what a study's tables say of it.

A claim is a region that a statistic must lie in. The verdict looks at the interval alone:
inside the region: reproduced; outside: contradicted; across its border: undecided. A study that
is too small for the claim, or that lacks the numbers, cannot test it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
import yaml

from diffusability.errors import StudyError

REPRODUCED = "reproduced"
CONTRADICTED = "contradicted"
UNDECIDED = "undecided"
NOT_TESTABLE = "not testable at this scale"
COLUMNS = (
    "id",
    "section",
    "statement",
    "verdict",
    "expected",
    "value",
    "low",
    "high",
    "reason",
    "table",
    "statistic",
    "rows",
    "refuted_by",
    "exact",
)
_TABLES = (
    "correlations",
    "intercorrelations",
    "comparisons",
    "regressions",
    "noise_floor",
    "comparability",
    "guidance",
    "profile_relations",
    "fisher_findings",
    "latent_findings",
)
_ORIENTED = ("correlations", "intercorrelations")
_COUNTS = {"backbones": "backbone", "families": "family", "scales": "cfg"}
_SMALLEST = ("tokenizers", "clusters", "reliability", *_COUNTS)
_NAMED = 4  # reasons that a verdict names, of as many as there are rows
_PANEL = ["target", "backbone", "family"]


@dataclass(frozen=True)
class Region:
    """The values that a claim allows, ``low`` to ``high``, and how to say so."""

    low: float
    high: float
    text: str

    @property
    def holds_zero(self) -> bool:
        """Whether no relation at all would agree with the claim."""
        return self.low < 0 < self.high


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        id: short name. section: where the paper says it. statement: in our words.
        table: the analysis table that holds the number. statistic: its name there.
        selectors: rows of that table; a row is taken if it fits any of them.
        region: values that agree with the claim; correlations are turned first so that positive
            means "as the metric's declared direction says".
        refuted_by: what would refute it. smallest: least numbers that can test it.
        every: whether all selected rows must agree, or any one.
        exact: what exact calculation says of the claim, empty where none was made.
    """

    id: str
    section: str
    statement: str
    table: str
    statistic: str
    selectors: tuple[Mapping[str, Any], ...]
    region: Region
    refuted_by: str
    smallest: Mapping[str, float] = field(default_factory=dict)
    every: bool = True
    exact: str = ""


@dataclass(frozen=True)
class _Finding:
    """What one row says of a claim."""

    verdict: str
    value: float
    low: float
    high: float
    reason: str


def load_claims(path: str | PathLike[str]) -> list[Claim]:
    """Read the claims of a YAML file.

    Args:
        path: a list of claims: id, section, statement, table, statistic, selector (one mapping
            of column to shell pattern, list of patterns with ``!`` for exclusion, number or
            ``best``; or a list of such mappings), expect (one of at_least, at_most,
            between: [a, b], equals with margin), refuted_by, and optionally smallest
            (tokenizers, clusters, backbones, families, scales, reliability), rows (all, any) and
            exact (what exact calculation says).

    Returns:
        The claims in the order of the file.

    Raises:
        StudyError: the file cannot be read, or a claim is malformed; names claim and key.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            entries = yaml.safe_load(stream)
    except (OSError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(entries, list):
        raise StudyError(f"{path}: must be a list of claims")
    claims = [_claim(entry, f"{path}, claim {n}") for n, entry in enumerate(entries, start=1)]
    names = [claim.id for claim in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StudyError(f"{path}: two claims have the id {twice[0]}")
    return claims


def _claim(entry: Any, where: str) -> Claim:
    required = {"id", "section", "statement", "table", "statistic", "selector", "expect"}
    required |= {"refuted_by"}
    if not isinstance(entry, dict):
        raise StudyError(f"{where}: must be a mapping")
    where = f"{where} ({entry.get('id', 'no id')})"
    optional = {"smallest", "rows", "exact"}
    wrong = sorted(required - set(entry)) or sorted(set(entry) - required - optional)
    if wrong:
        kind = "is missing" if wrong[0] in required else "is not a key of a claim"
        raise StudyError(f"{where}: {wrong[0]} {kind}")
    if entry["table"] not in _TABLES:
        raise StudyError(f"{where}: table {entry['table']} is none of {', '.join(_TABLES)}")
    selector = entry["selector"]
    smallest = entry.get("smallest") or {}
    unknown = sorted(set(smallest) - set(_SMALLEST))
    if unknown:
        raise StudyError(f"{where}: smallest.{unknown[0]} is none of {', '.join(_SMALLEST)}")
    if entry.get("rows", "all") not in ("all", "any"):
        raise StudyError(f"{where}: rows must be all or any")
    return Claim(
        id=str(entry["id"]),
        section=str(entry["section"]),
        statement=" ".join(str(entry["statement"]).split()),
        table=entry["table"],
        statistic=str(entry["statistic"]),
        selectors=tuple(selector if isinstance(selector, list) else [selector]),
        region=_region(entry["expect"], where),
        refuted_by=" ".join(str(entry["refuted_by"]).split()),
        smallest=smallest,
        every=entry.get("rows", "all") == "all",
        exact=" ".join(str(entry.get("exact", "")).split()),
    )


def _region(expect: Any, where: str) -> Region:
    try:
        match expect:
            case {"at_least": bound, **rest} if not rest:
                return Region(float(bound), math.inf, f"at least {bound}")
            case {"at_most": bound, **rest} if not rest:
                return Region(-math.inf, float(bound), f"at most {bound}")
            case {"between": [low, high], **rest} if not rest and low < high:
                return Region(float(low), float(high), f"between {low} and {high}")
            case {"equals": value, "margin": margin, **rest} if not rest and margin > 0:
                return Region(value - margin, value + margin, f"{value} ± {margin}")
    except (TypeError, ValueError):
        pass
    raise StudyError(
        f"{where}: expect must be at_least, at_most, between: [low, high], or equals with margin"
    )


def check_claims(claims: Sequence[Claim], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the verdict on every claim.

    Args:
        claims: as of ``load_claims``.
        tables: analysis tables by name, as of ``analyse``; absent ones make claims untestable.

    Returns:
        One row a claim: ``verdict`` with its ``reason``; ``value``, ``low`` and ``high`` of the
        row that decides (the one least in favour where all must agree). The interval is the hull
        of the one over tokenizers and the one over clusters. A claim without interval is never
        reproduced. Seeds pull correlations towards 0: where ``smallest.reliability`` is not
        reached (``noise_floor``), a verdict that such noise could cause becomes undecided.
    """
    rows = []
    for claim in claims:
        finding, count = _check(claim, tables)
        rows.append(
            {
                "id": claim.id,
                "section": claim.section,
                "statement": claim.statement,
                "verdict": finding.verdict,
                "expected": claim.region.text,
                "value": finding.value,
                "low": finding.low,
                "high": finding.high,
                "reason": finding.reason,
                "table": claim.table,
                "statistic": claim.statistic,
                "rows": count,
                "refuted_by": claim.refuted_by,
                "exact": claim.exact,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _untestable(reason: str) -> _Finding:
    return _Finding(NOT_TESTABLE, math.nan, math.nan, math.nan, reason)


def _check(claim: Claim, tables: Mapping[str, pd.DataFrame]) -> tuple[_Finding, int]:
    """Return the finding on one claim and how many rows it rests on."""
    table = tables.get(claim.table)
    if table is None or table.empty:
        return _untestable(f"this study has no table of {claim.table}"), 0
    chosen = table[selected_rows(table, claim)]
    if chosen.empty:
        return _untestable("this study measures nothing that the claim speaks of"), 0
    for name, column in _COUNTS.items():
        least = claim.smallest.get(name, 0)
        there = chosen[column].nunique(dropna=False) if column in chosen else 0
        if there < least:
            return _untestable(f"{there} {name}, the claim needs {least}"), len(chosen)
    floor = tables.get("noise_floor")
    findings = [_finding(claim, row, floor) for row in chosen.to_dict("records")]
    testable = [f for f in findings if f.verdict != NOT_TESTABLE]
    if not testable:
        reasons = list(dict.fromkeys(f.reason for f in findings))
        more = [f"and so for {len(reasons) - _NAMED} more"] * (len(reasons) > _NAMED)
        return _untestable("; ".join(reasons[:_NAMED] + more)), len(chosen)
    return _together(testable, len(findings), claim.every), len(testable)


def _together(findings: list[_Finding], total: int, every: bool) -> _Finding:
    """Return the finding over several rows: the decisive row, with the count of each verdict."""
    ranks = [CONTRADICTED, UNDECIDED, REPRODUCED]
    order = ranks if every else ranks[::-1]
    # a region has no preferred end in general; among equal verdicts the first row stands
    decisive = min(findings, key=lambda finding: order.index(finding.verdict))
    if total == 1:
        return decisive
    counts = [
        f"{n} {verdict}" for verdict in ranks if (n := sum(f.verdict == verdict for f in findings))
    ]
    if total > len(findings):
        counts.append(f"{total - len(findings)} {NOT_TESTABLE}")
    reason = f"{total} rows: {', '.join(counts)}; {decisive.reason}"
    return _Finding(decisive.verdict, decisive.value, decisive.low, decisive.high, reason)


def selected_rows(table: pd.DataFrame, claim: Claim) -> pd.Series:
    """Return which rows of a table a claim speaks of."""
    rows = pd.Series(False, index=table.index)
    for selector in claim.selectors:
        fits = pd.Series(True, index=table.index)
        for column, wanted in selector.items():
            if column not in table:
                raise StudyError(f"claim {claim.id}: table {claim.table} has no column {column}")
            codes, cells = pd.factorize(table[column], use_na_sentinel=False)
            fits &= np.array([_fits(cell, wanted) for cell in cells], dtype=bool)[codes]
        rows |= fits
    if "statistic" in table:
        rows &= table["statistic"] == claim.statistic
    elif claim.statistic not in table:
        raise StudyError(f"claim {claim.id}: {claim.table} has no statistic {claim.statistic}")
    return rows


def _fits(cell: object, wanted: object) -> bool:
    """Say whether a cell fits a pattern, a list of patterns, a number, or ``best``."""
    if wanted == "best":
        return isinstance(cell, float) and math.isnan(cell)
    if isinstance(wanted, int | float):
        return isinstance(cell, int | float) and float(cell) == float(wanted)
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)  # type: ignore[call-overload]
    without = [p[1:] for p in patterns if p.startswith("!")]
    within = [p for p in patterns if not p.startswith("!")] or ["*"]
    text = str(cell)
    return any(fnmatchcase(text, p) for p in within) and not any(
        fnmatchcase(text, p) for p in without
    )


def _finding(claim: Claim, row: Mapping[Any, Any], floor: pd.DataFrame | None) -> _Finding:
    """Return what one row of a table says of a claim."""
    where = ", ".join(str(row[c]) for c in (*_PANEL, "metric") if row.get(c) not in (None, ""))
    for name, column in (("tokenizers", "n"), ("clusters", "clusters")):
        least, there = claim.smallest.get(name, 0), row.get(column, row.get(name, math.inf))
        if there < least:
            return _untestable(f"{there} {name} ({where}), the claim needs {least}")
    sign = row.get("expected_sign", 1.0) if claim.table in _ORIENTED else 1.0
    value, low, high = _numbers(claim, row)
    note = f": {row['note']}" if row.get("note") else ""
    if math.isnan(sign):
        return _untestable(f"no declared direction ({where})")
    if math.isnan(low) or math.isnan(high):
        return _untestable(f"no interval ({where}){note}")
    value, (low, high) = sign * value, sorted((sign * low, sign * high))
    region = claim.region
    if region.low <= low and high <= region.high:
        verdict, reason = REPRODUCED, "the whole interval agrees"
    elif high < region.low or low > region.high:
        verdict, reason = CONTRADICTED, "the whole interval disagrees"
    else:
        verdict, reason = UNDECIDED, "the interval holds values that agree and that do not"
    doubt = _doubt(claim, row, floor, verdict, high)
    if doubt:
        verdict, reason = UNDECIDED, f"{reason}, but {doubt}"
    return _Finding(verdict, value, low, high, f"{reason} ({where})" if where else reason)


def _numbers(claim: Claim, row: Mapping[Any, Any]) -> tuple[float, float, float]:
    """Return value and interval: the hull of that over tokenizers and that over clusters."""
    name = claim.statistic
    if claim.table == "regressions":
        stem, _, term = name.partition("_")
        ends = (f"{stem}_{{}}_{term}" if term else f"{stem}_{{}}").format
        lows, highs = [ends("low"), ends("cluster_low")], [ends("high"), ends("cluster_high")]
    else:
        name = name if name in row else "value"
        lows, highs = ["low", "cluster_low"], ["high", "cluster_high"]
        if claim.statistic == "run_reliability":
            lows, highs = ["run_low"], ["run_high"]
    known = [[float(row[c]) for c in names if _is_number(row.get(c))] for names in (lows, highs)]
    low, high = (min(known[0]), max(known[1])) if all(known) else (math.nan, math.nan)
    return float(row[name]), low, high


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) and not math.isnan(cell)


def _doubt(
    claim: Claim, row: Mapping[Any, Any], floor: pd.DataFrame | None, verdict: str, high: float
) -> str:
    """Say why noise of seeds could have made a verdict on a correlation, empty if it could not."""
    least = claim.smallest.get("reliability")
    weak = claim.region.holds_zero
    # noise shrinks correlations: it can feign weakness, never strength or a turned sign
    feigned = verdict == REPRODUCED if weak else verdict == CONTRADICTED and high >= 0
    if least is None or claim.table != "correlations" or not feigned:
        return ""
    known = math.nan
    if floor is not None and len(floor):
        same = pd.Series(True, index=floor.index)
        for column in (*_PANEL, "cfg"):
            same &= (floor[column] == row[column]) | (floor[column].isna() & pd.isna(row[column]))
        known = float(floor.loc[same, "reliability"].iloc[0]) if same.any() else math.nan
    if math.isnan(known):
        return "the noise of seeds is unknown and may be the reason"
    return f"reliability {known:.2f} is below {least}" if known < least else ""
