"""The tests that a study declares before it is run, and what became of each."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from diffusability.analysis.correlation import at_smallest_guidance, turned
from diffusability.analysis.estimators import holm
from diffusability.analysis.frames import rows_where, table_frame
from diffusability.analysis.panels import Measured
from diffusability.analysis.snapshots import at_last_step
from diffusability.study.study import DEFAULTS, AnalysisSpec

FEW = "fewer than three tokenizers have both values"
AS_DECLARED, OPPOSITE = "as declared", "opposite"
UNDECIDED, NOT_TESTABLE = "undecided", "not testable"


def declared_tests(
    correlations: pd.DataFrame, measurements: Measured, analysis: AnalysisSpec = DEFAULTS
) -> pd.DataFrame:
    """Return one row per declared test; the columns: report/captions/tables/declared_tests.rst.

    Args:
        correlations: from ``correlate``. measurements: as they were correlated.
        analysis: confidence and `declared`.
    """
    declared = analysis.declared
    if declared is None:
        return table_frame("declared_tests", [])
    last = at_last_step(correlations)
    rows = [
        _row(last, measurements, metric, declared.target, backbone, family)
        for family in declared.families
        for backbone in declared.backbones
        for metric in declared.metrics
    ]
    table = table_frame("declared_tests", rows)
    tested = table["p"].notna()
    if tested.any():
        level = 1 - analysis.confidence
        corrected = holm(table["p"].fillna(1.0).to_numpy(float))
        table["p_holm"] = pd.Series(corrected, table.index).where(tested)
        clear = tested & (table["p_holm"] < level)
        table.loc[clear & (table["turned_r"] > 0), "verdict"] = AS_DECLARED
        table.loc[clear & (table["turned_r"] < 0), "verdict"] = OPPOSITE
    return table


def _row(
    correlations: pd.DataFrame,
    measurements: Measured,
    metric: str,
    target: str,
    backbone: str,
    family: str,
) -> dict[str, Any]:
    labels = {"target": target, "backbone": backbone, "family": family, "metric": metric}
    chosen = rows_where(correlations, **labels)
    if chosen.empty:
        reason = _absent(measurements, labels) or FEW
        return labels | {"verdict": NOT_TESTABLE, "reason": reason}
    found = at_smallest_guidance(chosen).iloc[0].to_dict()
    labels |= {name: found[name] for name in ("step", "guidance", "n", "clusters")}
    reason = _hindrance(found)
    if reason:
        return labels | {"verdict": NOT_TESTABLE, "reason": reason}
    r, low, high = turned(found)
    return labels | {
        **{"turned_r": r, "turned_r_low": low, "turned_r_high": high},
        **{"p": found["pearson_p"], "verdict": UNDECIDED, "reason": ""},
    }


def _absent(measurements: Measured, labels: Mapping[str, str]) -> str:
    """Return why a run has nothing of a test; empty if it has something."""
    there = {
        "target": set(measurements.metrics),
        "backbone": set(measurements.table["backbone"]),
        "family": set(measurements.families),
        "metric": set(measurements.metrics),
    }
    missing = [kind for kind, names in there.items() if labels[kind] not in names]
    if not missing:
        return ""
    doubt = " or not applicable" if labels["metric"] not in there["metric"] else ""
    return f"{' and '.join(missing)} not selected in this run{doubt}"


def _hindrance(found: Mapping[Hashable, Any]) -> str:
    """Return why a correlation does not answer its test; empty if it does."""
    if found["at_chance"]:
        return "the metric does not leave chance"
    if pd.notna(found["failed"]) and found["failed"]:
        return "generation failed"
    if math.isnan(found["expected_sign"]):
        return "the metric declares no direction"
    return str(found["note"]) if math.isnan(found["pearson_p"]) else ""


def declared_sentence(tests: pd.DataFrame) -> str:
    """Return how many of the declared tests came out as declared; empty if none was declared."""
    if tests.empty:
        return ""
    counts = tests["verdict"].value_counts()
    said = [f"{counts.get(verdict, 0)} {verdict}" for verdict in (AS_DECLARED, OPPOSITE)]
    said += [f"{counts[v]} {v}" for v in (UNDECIDED, NOT_TESTABLE) if v in counts]
    return f"Of {len(tests)} tests declared before the run: {', '.join(said)}"
