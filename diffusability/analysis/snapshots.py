"""Snapshots of diffusion models in tables: a row belongs to a backbone at a training step.

Every table that has a column `backbone` has a column `step`. Unless it is said otherwise, a result
is of the last step: `Measured`, and with it every function of the analysis, leaves earlier ones
out. `analyse` repeats the tables of `PER_STEP` for the earlier steps, of one backbone at a time.
"""

from collections.abc import Iterator, Mapping

import pandas as pd

PER_STEP = ("correlations",)  # tables that have rows of every step


def last_steps(table: pd.DataFrame) -> dict[str, int]:
    """Return the last step of each backbone that states any, in the order of the table."""
    known = table[table["step"].notna() & (table["backbone"] != "")]
    return {str(k): int(v) for k, v in known.groupby("backbone", sort=False)["step"].max().items()}


def at_last_step(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last step of each backbone, and those without a step.

    Args:
        table: any; one without the columns `backbone` and `step` is returned as it is.
    """
    if not {"backbone", "step"} <= set(table.columns):
        return table
    last = table["backbone"].map(last_steps(table))
    earlier = (table["step"].notna() & (table["step"] != last)).fillna(False)
    return table[~earlier].reset_index(drop=True) if earlier.any() else table


def earlier_snapshots(table: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield each earlier step of a backbone, with the rows of its models and of the tokenizers."""
    last = last_steps(table)
    known = table[table["step"].notna()]
    pairs = known[["backbone", "step"]].drop_duplicates().sort_values("step", kind="stable")
    for backbone, step in pairs.itertuples(index=False, name=None):
        if step != last[backbone]:
            own = (table["backbone"] == backbone) & (table["step"] == step).fillna(False)
            yield int(step), table[own | (table["backbone"] == "")].reset_index(drop=True)


def fill_steps(table: pd.DataFrame, steps: Mapping[str, int]) -> pd.DataFrame:
    """Return a table whose empty steps are those of its backbones, where it has both columns."""
    if not {"backbone", "step"} <= set(table.columns):
        return table
    filled = table["step"].fillna(table["backbone"].map(steps).astype("Int64"))
    return table.assign(step=filled)
