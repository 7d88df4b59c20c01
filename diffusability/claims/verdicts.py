"""Verdicts on the papers' claims.

The verdict depends only on the interval of a claim's one statistic: inside the region it is
reproduced, outside contradicted, across the border undecided, with the chance that a study of this
layout has to reproduce the paper's value. What cannot be tested at all says why.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from diffusability.analysis.declared import NOT_TESTABLE, UNDECIDED
from diffusability.analysis.equal_reconstruction import without_unequal
from diffusability.analysis.frames import join_notes, rows_where, table_frame
from diffusability.analysis.intervals import methods_of
from diffusability.analysis.panels import Measured, Table
from diffusability.claims.claim import Claim, Region, fits
from diffusability.claims.evidence import Evidence
from diffusability.claims.joint import Row, evaluate
from diffusability.claims.power import ASSUMED, RELIABILITY, power, power_reason
from diffusability.claims.seed_noise import noise_free
from diffusability.study.planning.tables import CLAIMS_TABLE
from diffusability.study.study import DEFAULTS, AnalysisSpec

REPRODUCED = "reproduced"
CONTRADICTED = "contradicted"
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_TESTABLE)
_WORST_FIRST = (CONTRADICTED, UNDECIDED, REPRODUCED)
_NAMED = 4  # maximum reasons named in a verdict
_PANEL = ("target", "backbone", "guidance", "family")


@dataclass(frozen=True)
class _Finding:
    """The result of a claim."""

    verdict: str
    reason: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    power: float = math.nan
    rows: int = 0
    n: float = math.nan
    clusters: float = math.nan


def check_claims(
    claims: Sequence[Claim],
    measurements: Table,
    profiles: pd.DataFrame,
    floor: pd.DataFrame,
    findings: pd.DataFrame,
    analysis: AnalysisSpec = DEFAULTS,
) -> pd.DataFrame:
    """Return the verdict on every claim about a study.

    Args:
        claims: from ``load_claims``. measurements: the tidy table; tokenizers that fall out of the
            comparison do not count.
        profiles, floor, findings: the tables ``profiles``, ``noise_floor``, ``latent_findings``.
        analysis: confidence of the intervals.

    Returns:
        One row per claim (and network, for claims on findings): ``verdict`` with its ``reason``;
        the statistic with its interval over clusters; ``power``, the chance that a study of this
        layout reproduces the claim if the paper's value is true; numbers of rows, tokenizers
        and clusters behind it.
    """
    equal = without_unequal(Measured.of(measurements).table, analysis)
    evidence = Evidence(Measured(equal), profiles)
    rows: list[dict[str, object]] = []
    for claim in claims:
        if claim.table:
            rows += _on_findings(claim, findings)
        else:
            rows.append(_row(claim, _joint(claim, evidence, floor, analysis.confidence)))
    return table_frame(CLAIMS_TABLE, rows)


def _row(claim: Claim, found: _Finding, network: str = "") -> dict[str, object]:
    mark = " (read off a figure)" if claim.read_off else ""
    return {
        **{"network": network, "id": claim.id, "section": claim.section + mark},
        **{"statement": claim.statement, "expected": claim.region.text},
        **vars(found),
        **{"statistic": claim.statistic, "refuted_by": claim.refuted_by, "exact": claim.exact},
    }


def _joint(claim: Claim, evidence: Evidence, floor: pd.DataFrame, confidence: float) -> _Finding:
    """Return the finding on a claim with a joint statistic."""
    terms, reasons = evidence.terms(claim.statistic, claim.plus, claim.minus)
    left = "; ".join(reasons[:_NAMED])
    if len(reasons) > _NAMED:
        left += f"; and {len(reasons) - _NAMED} more"
    if not terms.complete:
        return _Finding(NOT_TESTABLE, left or "no such rows")
    used = np.unique(np.concatenate([row.index for row in terms.rows]))
    found = evaluate(claim.statistic, terms, evidence.clusters, confidence, claim.least)  # type: ignore[arg-type]
    counts = {
        "rows": len(terms.rows),
        "n": len(used),
        "clusters": len(set(methods_of(evidence.clusters)[used])),
    }
    value, low, high = (float(part[0]) for part in (found.value, found.low, found.high))
    if math.isnan(low) or math.isnan(high):
        reason = join_notes(found.note or "no interval", left)
        return _Finding(NOT_TESTABLE, reason, value, **counts)
    least, reliability = _reliability(floor, terms.rows)
    chance = power(claim, terms, evidence.clusters, reliability, confidence, least)
    free = noise_free(claim, terms, evidence.clusters, (found.low, found.high), least)
    ends = None if free is None else (float(free[0][0]), float(free[1][0]))
    verdict, reason = decide(claim.region, (low, high), ends)
    why = power_reason(claim, terms)
    reason = join_notes(
        reason,
        f"left out: {left}" if left else "",
        f"power not computed: {why}" if why else f"power {ASSUMED}" if claim.assumed else "",
    )
    return _Finding(verdict, reason, value, low, high, chance, **counts)


def decide(
    region: Region, ends: tuple[float, float], noise_free: tuple[float, float] | None = None
) -> tuple[str, str]:
    """Return the verdict of an interval, and its reason.

    Args:
        region: values that agree. ends: the interval.
        noise_free: the wider interval of values that the statistic may have without noise of seeds;
            a verdict holds only if it is that of both.
    """
    found = _verdict(region, *ends)
    if found == UNDECIDED:
        return UNDECIDED, "the interval holds values that agree and values that do not"
    words = "agrees" if found == REPRODUCED else "disagrees"
    if noise_free is not None and _verdict(region, *noise_free) != found:
        wide = f"without it the value may lie in [{noise_free[0]:.2f}, {noise_free[1]:.2f}]"
        return UNDECIDED, f"the interval {words}, but noise of seeds may be the reason: {wide}"
    return found, f"the whole interval {words}"


def _verdict(region: Region, low: float, high: float) -> str:
    if region.holds(low, high):
        return REPRODUCED
    return CONTRADICTED if high < region.low or low > region.high else UNDECIDED


def _reliability(floor: pd.DataFrame, rows: Sequence[Row]) -> tuple[float, float]:
    """Return the smallest lower end and the smallest point of the reliability of some targets.

    A target without repeated seeds has an unknown reliability: the lower end is 0, and the power
    assumes the point. Targets measured on the tokenizer itself have no noise of diffusion seeds.
    """
    lows, points = [1.0], [1.0]
    for where in {tuple(row.labels.get(name) for name in _PANEL) for row in rows}:
        if not where[1]:
            continue
        found = rows_where(floor, **dict(zip(_PANEL, where, strict=True)))
        lows += found["low"].fillna(0.0).tolist() or [0.0]
        points += found["reliability"].fillna(RELIABILITY).tolist() or [RELIABILITY]
    return min(lows), min(points)


def check_findings(
    claims: Sequence[Claim], table: pd.DataFrame, networks: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the verdict on every claim on a table of findings, by network.

    Args:
        claims: from ``load_claims``. table: statistic, network, metric, value, low, high, note.
        networks: that every claim is tested on; by default those with selected rows.

    Returns:
        Rows as of ``check_claims``. All selected rows must agree: where one has no interval, a
        claim is not reproduced. The intervals of findings are wide enough for all noise levels of
        a curve together. A claim with a second reading, of
        whole curves, is reproduced or contradicted only where both readings agree.
    """
    rows = [row for claim in claims for row in _on_findings(claim, table, networks)]
    return table_frame(CLAIMS_TABLE, rows)


def _on_findings(
    claim: Claim, table: pd.DataFrame, networks: Sequence[str] | None = None
) -> Iterator[dict[str, object]]:
    """Yield the rows of one claim on findings."""
    chosen = table
    if len(table):
        chosen = table[table["statistic"].isin([claim.statistic, claim.curve])]
        for column, wanted in claim.selector.items():
            # as an array: an empty list would select no columns
            matches = [fits(str(cell), wanted) for cell in chosen[column]]
            chosen = chosen[np.array(matches, dtype=bool)]
    if networks is None:
        networks = list(dict.fromkeys(chosen["network"])) if len(chosen) else [""]
    for network in networks:
        own = chosen[chosen["network"] == network] if len(chosen) else chosen
        yield _row(claim, _both_readings(claim, own), network)


def _both_readings(claim: Claim, rows: pd.DataFrame) -> _Finding:
    """Return the finding at every noise level, unless that of whole curves differs."""
    if claim.statistic.endswith("_curve") and len(rows):
        return _of_curves(claim, rows)
    if not claim.curve or not len(rows):
        return _all([_finding(claim, row) for row in rows.to_dict("records")])
    whole = rows["statistic"] == claim.curve
    everywhere = _all([_finding(claim, row) for row in rows[~whole].to_dict("records")])
    curves = _of_curves(claim, rows[whole])
    return _same([everywhere, curves], ("at every noise level", "as a curve"))


def _of_curves(claim: Claim, rows: pd.DataFrame) -> _Finding:
    """Return the finding on whole curves: supremum and mean of each space must agree."""
    return _all(
        [
            _same([_finding(claim, row) for row in own.to_dict("records")])
            for _, own in rows.groupby("space", sort=False)
        ]
    )


def _finding(claim: Claim, row: Mapping[Any, Any]) -> _Finding:
    """Return the finding on one row of a table of findings."""
    low, high = float(row["low"]), float(row["high"])
    note = f": {row['note']}" if row["note"] else ""
    if math.isnan(low) or math.isnan(high):
        return _Finding(NOT_TESTABLE, f"no interval ({row['metric']}){note}")
    verdict, reason = decide(claim.region, (low, high))
    reason = f"{reason} ({row['metric']}){note}"
    return _Finding(verdict, reason, float(row["value"]), low, high, rows=1)


def _all(parts: Sequence[_Finding]) -> _Finding:
    """Return the finding of parts that must all agree: one disagrees, or none is left open.

    A part that cannot be judged leaves open what the others reproduce; the reason counts them.
    """
    judged = [part for part in parts if part.verdict != NOT_TESTABLE]
    lost = list(dict.fromkeys(part.reason for part in parts if part.verdict == NOT_TESTABLE))
    if not judged:
        return _Finding(
            NOT_TESTABLE,
            "; ".join(lost[:_NAMED]) or "not measured here or every estimate has a flag",
        )
    # among equal verdicts the first decides: a region has no preferred end in general
    decisive = min(judged, key=lambda part: _WORST_FIRST.index(part.verdict))
    found = replace(decisive, rows=sum(part.rows for part in judged))
    if not lost:
        return found
    count = f"{len(parts) - len(judged)} of {len(parts)} cannot be judged: {lost[0]}"
    verdict = UNDECIDED if found.verdict == REPRODUCED else found.verdict
    return replace(found, verdict=verdict, reason=f"{found.reason}; {count}")


def _same(readings: Sequence[_Finding], names: Sequence[str] = ()) -> _Finding:
    """Return the finding of readings of one thing: none where they differ or one is missing."""
    lost = [reading for reading in readings if reading.verdict == NOT_TESTABLE]
    if lost:
        return lost[0]
    reasons = [reading.reason for reading in readings]
    if names:
        reasons = [
            f"{name}: {reading.verdict}, {reading.reason}"
            for name, reading in zip(names, readings, strict=True)
        ]
    agree = len({reading.verdict for reading in readings}) == 1
    verdict = readings[0].verdict if agree else UNDECIDED
    return replace(readings[0], verdict=verdict, reason="; ".join(reasons))
