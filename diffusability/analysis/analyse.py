"""All tables of a study: those collected from artifacts, and those derived from them."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import pandas as pd
from joblib import Parallel, delayed

from diffusability.analysis.intervals import Analysis, AnalysisOptions
from diffusability.analysis.panels import Measured
from diffusability.study.plan import Plan
from diffusability.study.tables import ANALYSIS_TABLES, COLLECTED_TABLES, TABLES
from diffusability.study.targets import table_names

# resampling takes most of the time: these run in parallel to the others
_FIRST = ("correlations", "proxies")


def collect(plan: Plan) -> dict[str, pd.DataFrame]:
    """Return the tables that are collected from a study's artifacts, by name.

    Raises:
        ArtifactError: an artifact is missing, altered, or not of this plan.
    """
    names = table_names(plan.study, COLLECTED_TABLES)
    return {name: TABLES[name].function()(plan) for name in names}


def analyse(
    collected: Mapping[str, pd.DataFrame],
    analysis: Analysis | None = None,
    names: Sequence[str] = ANALYSIS_TABLES,
) -> dict[str, pd.DataFrame]:
    """Return the derived tables by name, in the order of their declaration.

    Args:
        collected: tables by name, from ``collect``; measurements are checked
            (``check_measurements``).
        analysis: resamples, confidence and seed.
        names: of the tables that the study has.
    """
    analysis = analysis or AnalysisOptions()
    first = [name for name in names if name in _FIRST]
    rest = [name for name in names if name not in _FIRST]
    halves = Parallel(n_jobs=2)(
        delayed(_make)(half, collected, analysis) for half in (first, rest) if half
    )
    made = {name: table for half in halves for name, table in half.items()}
    return {name: made[name] for name in names}


def _make(
    names: list[str], collected: Mapping[str, pd.DataFrame], analysis: Analysis
) -> dict[str, pd.DataFrame]:
    """Return the named tables; each may use those before it."""
    # keeps pairings of metrics and targets between tables
    known: dict[str, Any] = {**collected, "measurements": Measured(collected["measurements"])}
    for name in names:
        function = TABLES[name].function()
        inputs = [known[source] for source in TABLES[name].made_from]
        options = {"analysis": analysis} if "analysis" in signature(function).parameters else {}
        known[name] = function(*inputs, **options)
    return {name: known[name] for name in names}
