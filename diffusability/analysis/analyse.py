"""All tables of a study: those collected from artifacts, and those derived from them."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import pandas as pd

from diffusability.analysis.intervals import Analysis, AnalysisOptions
from diffusability.analysis.panels import Measured
from diffusability.study.plan import Plan
from diffusability.study.tables import ANALYSIS_TABLES, COLLECTED_TABLES, TABLES


def collect(plan: Plan) -> dict[str, pd.DataFrame]:
    """Return the tables that are collected from a study's artifacts, by name.

    Raises:
        ArtifactError: an artifact is missing, altered, or not of this plan.
    """
    return {name: TABLES[name].function()(plan) for name in COLLECTED_TABLES}


def analyse(
    collected: Mapping[str, pd.DataFrame], analysis: Analysis | None = None
) -> dict[str, pd.DataFrame]:
    """Return the derived tables by name, in the order of their declaration.

    Args:
        collected: tables by name, from ``collect``; measurements are checked
            (``check_measurements``).
        analysis: confidence.
    """
    analysis = analysis or AnalysisOptions()
    # one index of the measurements: pairings of metrics and targets are shared between tables
    known: dict[str, Any] = {**collected, "measurements": Measured(collected["measurements"])}
    for name in ANALYSIS_TABLES:
        function = TABLES[name].function()
        inputs = [known[source] for source in TABLES[name].made_from]
        options = {"analysis": analysis} if "analysis" in signature(function).parameters else {}
        known[name] = function(*inputs, **options)
    return {name: known[name] for name in ANALYSIS_TABLES}
