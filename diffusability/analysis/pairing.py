"""A metric paired with a target: rows of tokenizers, the runs behind them, and what is missing.

Runs are matched before they are averaged: only tokenizer seeds that have both numbers count, and a
metric of the diffusion model itself (``trajectory.*``, ``fisher.learned_*``) is matched run by run.
Means are taken over the diffusion seeds of a trained tokenizer, then over its tokenizer seeds, so a
tokenizer seed with many runs does not outweigh the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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
    columns: Mapping[str, str] = MappingProxyType({"value": "stderr"}),
    by: Sequence[str] = ("tokenizer",),
) -> pd.DataFrame:
    """Return each tokenizer's mean and its standard error, as correlations take them.

    Every training of a tokenizer counts the same, however many diffusion models it has. The error
    is over trained tokenizers if there are several, else over the runs if they differ, else that of
    the measurement.

    Args:
        rows: measurements of one metric. columns: of values, with that of their standard errors.
        by: columns whose values are averaged apart: by default rows are of one backbone, guidance
            scale and step.

    Returns:
        These columns, by ``by`` in the order of the rows.
    """
    keys, values = list(by), list(columns)
    known = rows[rows[values].notna().all(axis=1)]
    trained = known.groupby([*keys, "tokenizer_seed"], sort=False, dropna=False)[values].mean()
    trainings = trained.groupby(keys, sort=False, dropna=False)
    runs = known.groupby(keys, sort=False, dropna=False)[values]
    measured = known.drop_duplicates(keys).set_index(keys)[list(columns.values())]
    # a tokenizer's metric is repeated over the diffusion seeds: no spread, hence no estimate
    of_runs = runs.sem().where(runs.max() > runs.min(), measured.set_axis(values, axis=1))
    errors = trainings.sem().where(trainings.count() > 1, of_runs)
    return trainings.mean().join(errors.rename(columns=columns))
