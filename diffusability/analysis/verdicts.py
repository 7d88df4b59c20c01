"""Verdicts on the papers' claims.

The verdict depends only on the interval of a claim's one statistic: inside the region it is
reproduced, outside contradicted, across the border undecided, with the chance that a study of this
layout has to reproduce the paper's value. What cannot be tested at all says why.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from diffusability.analysis.claims import Claim, Region, fits
from diffusability.analysis.equal_reconstruction import without_unequal
from diffusability.analysis.evidence import Evidence, Study
from diffusability.analysis.frames import join_notes, rows_where, table_frame
from diffusability.analysis.intervals import Labels
from diffusability.analysis.joint import CORRELATIONS, Row, Terms, evaluate
from diffusability.analysis.panels import Measured, Table
from diffusability.analysis.power import ASSUMED, power, power_reason
from diffusability.study.study import DEFAULTS, AnalysisSpec
from diffusability.study.tables import CLAIMS_TABLE

REPRODUCED = "reproduced"
CONTRADICTED = "contradicted"
UNDECIDED = "undecided"
NOT_TESTABLE = "not testable"
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_TESTABLE)
_NAMED = 4  # maximum reasons named in a verdict
_NOISY = (*CORRELATIONS, "slope", "offset", "range", "fit")
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
        One row per claim (and network, for claims on findings). The columns:
        report/captions/tables/claims.rst.
    """
    equal = without_unequal(Measured.of(measurements).table, analysis)
    study = Study(Measured(equal), profiles)
    rows: list[dict[str, object]] = []
    for claim in claims:
        if claim.table:
            rows += _by_network(claim, findings, None)
        else:
            rows.append(_row(claim, _joint(claim, study, floor, analysis.confidence)))
    return table_frame(CLAIMS_TABLE, rows)


def _row(claim: Claim, found: _Finding, network: str = "") -> dict[str, object]:
    mark = " (read off a figure)" if claim.read_off else ""
    return {
        **{"network": network, "id": claim.id, "section": claim.section + mark},
        **{"statement": claim.statement, "expected": claim.region.text},
        **vars(found),
        **{"statistic": claim.statistic, "refuted_by": claim.refuted_by, "exact": claim.exact},
    }


def _joint(claim: Claim, study: Study, floor: pd.DataFrame, confidence: float) -> _Finding:
    """Return the finding on a claim with a joint statistic."""
    evidence = study.evidence(claim.statistic, claim.plus, claim.minus)
    if not evidence.complete:
        return _Finding(NOT_TESTABLE, _reasons(evidence) or "no such rows")
    terms = evidence.terms
    used = np.unique(np.concatenate([row.index for row in terms.rows]))
    found = evaluate(claim.statistic, terms, study.clusters, confidence, claim.least)  # type: ignore[arg-type]
    counts = {
        "rows": len(terms.rows),
        "n": len(used),
        "clusters": len(set(study.clusters[used])),
    }
    value, low, high = (float(part[0]) for part in (found.value, found.low, found.high))
    if math.isnan(low) or math.isnan(high):
        reason = join_notes(found.note or "no interval", _reasons(evidence))
        return _Finding(NOT_TESTABLE, reason, value, **counts)
    least, reliability = _reliability(floor, terms.rows)
    chance = power(claim, terms, study.clusters, reliability, confidence)
    free = _noise_free(claim, terms, study.clusters, (low, high), least)
    verdict, reason = decide(claim.region, (low, high), free)
    left, why = _reasons(evidence), power_reason(claim, terms)
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
    if region.low <= low and high <= region.high:
        return REPRODUCED
    return CONTRADICTED if high < region.low or low > region.high else UNDECIDED


def without_noise(
    ends: tuple[float, float],
    reliability: float,
    added: Sequence[float] = (),
    subtracted: Sequence[float] = (),
) -> tuple[float, float]:
    """Return the values that a statistic of correlations may have without noise of seeds.

    Noise weakens a correlation by up to the root of the reliability. Targets of one panel have
    the same noise, so their whole interval is stretched away from zero; terms on different
    panels (``added`` minus ``subtracted``) may be weakened by different factors.

    Args:
        ends: the interval. reliability: lower end of that of all targets, in [0, 1].
        added, subtracted: values of the terms, if they are on different panels.
    """
    root = math.sqrt(min(max(reliability, 0.0), 1.0))
    if not added:
        low, high = (end / root if root else math.copysign(math.inf, end) for end in ends)
        return min(low, ends[0]), max(high, ends[1])

    def gain(values: Sequence[float]) -> float:
        return sum(min(v / root if root else 1.0, 1.0) - v for v in values if v > 0)

    up = gain(added) + gain([-v for v in subtracted])
    down = gain(subtracted) + gain([-v for v in added])
    return ends[0] - down, ends[1] + up


def _noise_free(
    claim: Claim, terms: Terms, clusters: Labels, ends: tuple[float, float], least: float
) -> tuple[float, float] | None:
    """Return the interval of a claim without noise of seeds, None if it has none."""
    if claim.statistic not in _NOISY:
        return None
    if claim.statistic == "range":
        return (-math.inf, math.inf) if least < 1 else ends
    if claim.statistic not in CORRELATIONS or claim.least:
        return without_noise(ends, least)
    places = [
        {tuple(row.labels[name] for name in _PANEL[:3]) for row in term}
        for term in (*terms.plus, *terms.minus)
    ]
    if all(place == places[0] for place in places):
        return without_noise(ends, least)
    sides = [
        [float(evaluate(claim.statistic, Terms([t]), clusters).value[0]) for t in side]  # type: ignore[arg-type]
        for side in (terms.plus, terms.minus)
    ]
    return without_noise(ends, least, *sides)


def _reliability(floor: pd.DataFrame, rows: Sequence[Row]) -> tuple[float, float]:
    """Return the smallest lower end and the smallest point of the reliability of some targets.

    A target without repeated seeds has an unknown reliability: the lower end is 0. Targets
    measured on the tokenizer itself have no noise of diffusion seeds.
    """
    lows, points = [1.0], [1.0]
    for where in {tuple(row.labels.get(name) for name in _PANEL) for row in rows}:
        if not where[1]:
            continue
        found = rows_where(floor, **dict(zip(_PANEL, where, strict=True)))
        lows += found["low"].fillna(0.0).tolist() or [0.0]
        points += found["reliability"].fillna(1.0).tolist()
    return min(lows), min(points)


def _reasons(evidence: Evidence) -> str:
    more = len(evidence.reasons) - _NAMED
    shown = list(evidence.reasons[:_NAMED]) + [f"and {more} more"] * (more > 0)
    return "; ".join(shown)


def check_findings(
    claims: Sequence[Claim], table: pd.DataFrame, networks: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the verdict on every claim on a table of findings, by network.

    Args:
        claims: from ``load_claims``. table: statistic, network, metric, value, low, high, note.
        networks: that every claim is tested on; by default those with selected rows.

    Returns:
        Rows as of ``check_claims``. All selected rows must agree; the intervals of findings are
        wide enough for all noise levels of a curve together. A claim with a second reading, of
        whole curves, is reproduced or contradicted only where both readings agree.
    """
    rows = [row for claim in claims for row in _by_network(claim, table, networks)]
    return table_frame(CLAIMS_TABLE, rows)


def _by_network(
    claim: Claim, table: pd.DataFrame, networks: Sequence[str] | None
) -> Iterator[dict[str, object]]:
    """Yield the verdict on a claim for every network."""
    if table.empty:
        table = table_frame("latent_findings", [])
    chosen = table[table["statistic"].isin([claim.statistic, claim.curve])]
    for column, wanted in (claim.selector or {}).items():
        matches = [fits(str(cell), wanted) for cell in chosen[column]]
        chosen = chosen[np.array(matches, dtype=bool)]  # an empty list would select no columns
    if networks is None:
        networks = list(chosen["network"].unique()) or [""]
    for network in networks:
        yield _row(claim, _both_readings(claim, chosen[chosen["network"] == network]), network)


def _both_readings(claim: Claim, rows: pd.DataFrame) -> _Finding:
    """Return the finding at every noise level, unless that of whole curves differs."""
    if not claim.curve or rows.empty:
        return _findings(claim, rows)
    whole = rows["statistic"] == claim.curve
    everywhere, curve = _findings(claim, rows[~whole]), _of_curves(claim, rows[whole])
    if NOT_TESTABLE in (everywhere.verdict, curve.verdict):
        return everywhere if everywhere.verdict == NOT_TESTABLE else curve
    text = (
        f"at every noise level: {everywhere.verdict}, {everywhere.reason}; "
        f"as a curve: {curve.verdict}, {curve.reason}"
    )
    agree = everywhere.verdict == curve.verdict
    return replace(everywhere, verdict=everywhere.verdict if agree else UNDECIDED, reason=text)


def _of_curves(claim: Claim, rows: pd.DataFrame) -> _Finding:
    """Return the finding over spaces, in each of which supremum and mean must agree."""
    found = []
    for _, own in rows.groupby("space", sort=False):
        parts = [_findings(claim, own.iloc[[i]]) for i in range(len(own))]
        agree = len({part.verdict for part in parts}) == 1
        reason = "; ".join(part.reason for part in parts)
        verdict = parts[0].verdict if agree else UNDECIDED
        found.append(replace(parts[0], verdict=verdict, reason=reason))
    order = [CONTRADICTED, UNDECIDED, NOT_TESTABLE, REPRODUCED]
    if not found:
        return _Finding(NOT_TESTABLE, "this study has no such curves")
    return min(found, key=lambda finding: order.index(finding.verdict))


def _findings(claim: Claim, rows: pd.DataFrame) -> _Finding:
    """Return the finding over rows that must all agree: that of the decisive row."""
    found, reasons = [], []
    for row in rows.to_dict("records"):
        low, high = float(row["low"]), float(row["high"])
        if math.isnan(low) or math.isnan(high):
            reasons.append(
                f"no interval ({row['metric']})" + (f": {n}" if (n := row["note"]) else "")
            )
            continue
        verdict, reason = decide(claim.region, (low, high))
        where = f"{reason} ({row['metric']})"
        found.append(_Finding(verdict, where, float(row["value"]), low, high, rows=len(rows)))
    if not found:
        named = list(dict.fromkeys(reasons))[:_NAMED]
        return _Finding(NOT_TESTABLE, "; ".join(named) or "this study has no such findings")
    order = [CONTRADICTED, UNDECIDED, REPRODUCED]
    # in general a region has no preferred end; among equal verdicts the first row decides
    return min(found, key=lambda finding: order.index(finding.verdict))
