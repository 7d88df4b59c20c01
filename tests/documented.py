"""Which measurements of a table are declared with their unit and direction."""

import re

import pandas as pd

from diffusability.study.metrics.generation import GENERATION, TRAJECTORY
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.metrics.quantity import Quantity

ABOVE = "as above"


def undocumented(table: pd.DataFrame) -> list[str]:
    """Return what is wrong with the declarations of a tidy table's metrics, a sentence each."""
    declared = [quantity for group in METRIC_GROUPS.values() for quantity in group.quantities]
    declared += [*GENERATION, *TRAJECTORY]
    measured = table[table["value"].notna()].drop_duplicates("metric")
    problems = []
    for metric, unit, better in measured[["metric", "unit", "higher_is_better"]].itertuples(False):
        direction = "none" if pd.isna(better) else "higher" if better else "lower"
        # a control is measured as generated images are
        rows = _rows(declared, re.sub(r"^control\.\w+\.", "generation.", metric))
        if not rows:
            problems.append(f"{metric} is among no group's quantities")
        elif not any(_states(row, str(unit), direction) for row in rows):
            problems.append(f"{metric}: {unit}, {direction}; declared is {rows}")
    return problems


def _rows(quantities: list[Quantity], metric: str) -> list[Quantity]:
    """Return the rows for a measurement: those with its exact name, else those that fit it."""
    exact = [quantity for quantity in quantities if metric in quantity.names.split()]
    return exact or [quantity for quantity in quantities if quantity.covers(metric)]


def _states(quantity: Quantity, unit: str, direction: str) -> bool:
    return quantity.unit in (unit, ABOVE) and quantity.better in (direction, ABOVE)
