"""Verdicts on the papers' claims from the tables of a study.

The verdict depends only on the interval: inside the region it is reproduced, outside contradicted,
and across the border undecided. A study that is too small for the claim, or lacks its statistics,
cannot test it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from diffusability.analysis.claims import COUNTS, Claim
from diffusability.analysis.frames import table_frame
from diffusability.errors import StudyError
from diffusability.study.tables import CLAIMS_TABLE

REPRODUCED = "reproduced"
CONTRADICTED = "contradicted"
UNDECIDED = "undecided"
NOT_TESTABLE = "not testable at this scale"
_ORIENTED = ("correlations", "intercorrelations")
_NAMED = 4  # maximum reasons named in a verdict
_PANEL = ["target", "backbone", "family"]


@dataclass(frozen=True)
class _Finding:
    """Result of one row for a claim."""

    verdict: str
    value: float
    low: float
    high: float
    reason: str


def check_claims(claims: Sequence[Claim], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the verdict on every claim.

    Args:
        claims: from ``load_claims``.
        tables: analysis tables by name, from ``analyse``; claims on missing tables are not
            testable.

    Returns:
        One row per claim: ``verdict`` with its ``reason``; ``value``, ``low`` and ``high`` of the
        decisive row (the least favourable one if all must agree). The interval is the hull of
        those over tokenizers and over clusters. A claim without interval is never reproduced.
        Noise of seeds attenuates correlations: below ``smallest.reliability``
        (``noise_floor``), a verdict that such noise could cause becomes undecided.
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
    return table_frame(CLAIMS_TABLE, rows)


def _untestable(reason: str) -> _Finding:
    return _Finding(NOT_TESTABLE, math.nan, math.nan, math.nan, reason)


def _check(claim: Claim, tables: Mapping[str, pd.DataFrame]) -> tuple[_Finding, int]:
    """Return the finding on one claim and the number of rows behind it."""
    table = tables.get(claim.table)
    if table is None or table.empty:
        return _untestable(f"this study has no table of {claim.table}"), 0
    chosen = table[selected_rows(table, claim)]
    if chosen.empty:
        return _untestable("this study measures none of the claim's metrics"), 0
    for name, column in COUNTS.items():
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
    # in general a region has no preferred end; among equal verdicts the first row decides
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
    """Return the rows of a table that a claim selects."""
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
    """Return whether a cell matches a pattern, a list of patterns, or a number."""
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
    """Return the finding of one row of a table on a claim."""
    where = ", ".join(str(row[c]) for c in (*_PANEL, "metric") if row.get(c) not in (None, ""))
    for name, column in (("tokenizers", "n"), ("clusters", "clusters")):
        least, there = claim.smallest.get(name, 0), row.get(column, row.get(name, math.inf))
        if there < least:
            return _untestable(f"{there:g} {name} ({where}), the claim needs {least}")
    sign = row.get("expected_sign", 1.0) if claim.table in _ORIENTED else 1.0
    value, low, high = _numbers(claim, row)
    note = f": {str(row['note']).partition(';')[0]}" if row.get("note") else ""
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
        verdict, reason = (
            UNDECIDED,
            "the interval contains values that agree and values that do not",
        )
    doubt = _doubt(claim, row, floor, verdict, high)
    if doubt:
        verdict, reason = UNDECIDED, f"{reason}, but {doubt}"
    return _Finding(verdict, value, low, high, f"{reason} ({where})" if where else reason)


def _numbers(claim: Claim, row: Mapping[Any, Any]) -> tuple[float, float, float]:
    """Return value and interval: the hull of that over tokenizers and that over clusters."""
    # a row has several statistics, each with its interval; or one, as `value`
    name, prefix = (claim.statistic, f"{claim.statistic}_") if claim.statistic in row else ("", "")
    if f"{prefix}low" not in row:
        prefix = ""
    ends = []
    for end, hull in (("low", min), ("high", max)):
        columns = (f"{prefix}{end}", f"{prefix}cluster_{end}")
        known = [float(row[c]) for c in columns if _is_number(row.get(c))]
        ends.append(hull(known) if known else math.nan)
    return float(row[name or "value"]), *ends  # type: ignore[return-value]


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) and not math.isnan(cell)


def _doubt(
    claim: Claim, row: Mapping[Any, Any], floor: pd.DataFrame | None, verdict: str, high: float
) -> str:
    """Return the reason why noise of seeds could explain a verdict, or empty."""
    least = claim.smallest.get("reliability")
    weak = claim.region.holds_zero
    # noise attenuates correlations: it can explain weak ones, never strong ones or another sign
    feigned = verdict == REPRODUCED if weak else verdict == CONTRADICTED and high >= 0
    if least is None or claim.table != "correlations" or not feigned:
        return ""
    known = math.nan
    if floor is not None and len(floor):
        same = pd.Series(True, index=floor.index)
        for column in (*_PANEL, "guidance"):
            same &= (floor[column] == row[column]) | (floor[column].isna() & pd.isna(row[column]))
        known = float(floor.loc[same, "reliability"].iloc[0]) if same.any() else math.nan
    if math.isnan(known):
        return "the noise of seeds is unknown and may be the reason"
    return f"reliability {known:.2f} is below {least}" if known < least else ""


def check_by_network(
    claims: Sequence[Claim],
    tables: Mapping[str, pd.DataFrame],
    networks: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return the verdict on every claim, for each network that it is tested on.

    Args:
        claims: from ``load_claims``.
        tables: as for ``check_claims``; tables of claims tested per network have a column
            ``network``.
        networks: networks that every claim is tested on; by default those with selected rows.

    Returns:
        The rows of ``check_claims``, claim by claim; ``network`` is empty for claims without
        networks.
    """
    parts = [check_claims([], tables)]
    for claim in claims:
        table, there, own = tables.get(claim.table), [""], dict(tables)
        if table is not None and "network" in table:
            named = table["network"][selected_rows(table, claim)] if networks is None else networks
            there = list(dict.fromkeys(named)) or there
        for network in there:
            if table is not None and "network" in table:
                own[claim.table] = table[table["network"] == network]
            parts.append(check_claims([claim], own).assign(network=network))
    return pd.concat(parts, ignore_index=True)
