"""All tables of a study: those collected from artifacts, and those derived from them."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import pandas as pd

from diffusability.analysis.equal_reconstruction import without_unequal
from diffusability.analysis.frames import table_frame
from diffusability.analysis.panels import Measured
from diffusability.analysis.snapshots import (
    PER_STEP,
    earlier_snapshots,
    fill_steps,
    last_steps,
)
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.tables import ANALYSIS_TABLES, COLLECTED_TABLES, TABLES
from diffusability.study.planning.targets import table_names
from diffusability.study.study import DEFAULTS, AnalysisSpec

OF_ALL = ("tokenizers", "comparability", "latent_spaces")  # tables on every tokenizer


def collect(plan: Plan) -> dict[str, pd.DataFrame]:
    """Return the tables that are collected from a study's artifacts, by name.

    Raises:
        ArtifactError: an artifact is missing, altered, or not of this plan.
    """
    names = table_names(plan.study, COLLECTED_TABLES)
    return {name: TABLES[name].function()(plan) for name in names}


def analyse(
    collected: Mapping[str, pd.DataFrame],
    analysis: AnalysisSpec = DEFAULTS,
    names: Sequence[str] = ANALYSIS_TABLES,
) -> dict[str, pd.DataFrame]:
    """Return the derived tables by name, in the order of their declaration.

    Args:
        collected: tables by name, from ``collect``; measurements are checked
            (``check_measurements``).
        analysis: options of the study.
        names: of the tables that the study has.
    """
    equal = without_unequal(collected["measurements"], analysis)
    steps = last_steps(collected["measurements"])
    # one index of the measurements: pairings of metrics and targets are shared between tables
    known: dict[str, Any] = {**collected, "measurements": Measured(equal)}
    everything = Measured(collected["measurements"])
    earlier = [(step, Measured(part)) for step, part in earlier_snapshots(equal)]
    for name in names:
        if equal.empty and name not in OF_ALL:
            known[name] = table_frame(name, [])  # nothing is left that can be compared
            continue
        function = TABLES[name].function()
        inputs = {source: known[source] for source in TABLES[name].made_from}
        if name in OF_ALL:
            inputs["measurements"] = everything
        takes = "analysis" in signature(function).parameters
        options = {"analysis": analysis} if takes else {}
        parts = [function(*inputs.values(), **options)]
        if name in PER_STEP:
            for step, part in earlier:
                found = function(*(inputs | {"measurements": part}).values(), **options)
                parts.append(found.assign(step=step))
        there = [part for part in parts if len(part)] or parts[:1]
        whole = pd.concat(there, ignore_index=True) if len(there) > 1 else there[0]
        known[name] = fill_steps(whole, steps)
    return {name: known[name] for name in names}
