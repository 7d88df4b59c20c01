"""A metric paired with a target: rows of tokenizers, the runs behind them, and what is missing.

Runs are matched before they are averaged: only tokenizer seeds that have both numbers count, and a
metric of the diffusion model itself (``trajectory.*``, ``fisher.learned_*``) is matched run by run.
Means are taken over the diffusion seeds of a trained tokenizer, then over its tokenizer seeds, so a
tokenizer seed with many runs does not outweigh the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

IDENTITY = ["tokenizer", "family", "cluster", "encoder"]
UNITS = ["cluster", "encoder"]  # in which tokenizers resemble each other, see ``intervals.units``
_NAMED = 5  # tokenizers that a note names


@dataclass(frozen=True)
class Cells:
    """A metric paired with a target, one row per tokenizer, and all that could not be paired.

    Attributes:
        rows: tokenizer, family, cluster, encoder, guidance, x, y and their standard errors
            x_stderr and y_stderr (``means_by_tokenizer``).
        runs: tokenizer, tokenizer_seed, seed, x, y: the runs behind those means.
        missing: tokenizer, family, cluster, encoder, reason of every tokenizer without a row.
        unpaired: tokenizer of every run without a partner, of tokenizers with a row.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    missing: pd.DataFrame
    unpaired: pd.DataFrame

    def of_family(self, family: str) -> "Cells":
        """Return the part of one family."""
        rows, missing = (t[t["family"] == family] for t in (self.rows, self.missing))
        there = rows["tokenizer"]
        runs, unpaired = (t[t["tokenizer"].isin(there)] for t in (self.runs, self.unpaired))
        return Cells(*(t.reset_index(drop=True) for t in (rows, runs, missing, unpaired)))

    def missing_note(self) -> str:
        """Return one sentence on the tokenizers and runs left out, or empty."""
        out, notes = list(self.missing["tokenizer"]), []
        partly = list(dict.fromkeys(self.unpaired["tokenizer"]))
        if out:
            total = len(out) + len(self.rows)
            notes.append(f"{len(out)} of {total} tokenizers left out: {_first(out)}")
        if partly:
            runs = f"{len(self.unpaired)} unpaired runs"
            notes.append(f"{runs} left out of the means of: {_first(partly)}")
        return "; ".join(notes)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def means_by_tokenizer(
    rows: pd.DataFrame,
    value: str = "value",
    stderr: str = "stderr",
    by: Sequence[str] = ("tokenizer",),
) -> pd.DataFrame:
    """Return each tokenizer's mean and its standard error, as correlations take them.

    Every training of a tokenizer counts the same, however many diffusion models it has. The error
    is over trained tokenizers if there are several, else over the runs if they differ, else that of
    the measurement.

    Args:
        rows: measurements of one metric. value, stderr: columns.
        by: columns whose values are averaged apart: by default rows are of one backbone, guidance
            scale and step.

    Returns:
        The two columns, by ``by`` in the order of the rows.
    """
    keys, known = list(by), rows[rows[value].notna()]
    trained = known.groupby([*keys, "tokenizer_seed"], sort=False, dropna=False)[value].mean()
    trainings = trained.groupby(keys, sort=False, dropna=False)
    runs = known.groupby(keys, sort=False, dropna=False)[value]
    measured = known.drop_duplicates(keys).set_index(keys)[stderr]
    # a tokenizer's metric is repeated over the diffusion seeds: no spread, hence no estimate
    of_runs = runs.sem().where(runs.nunique() > 1, measured)
    return pd.DataFrame(
        {value: trainings.mean(), stderr: trainings.sem().where(trainings.size() > 1, of_runs)}
    )
