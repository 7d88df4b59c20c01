"""Pairing of a metric's runs with a target's: matched by seed, then averaged by tokenizer."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
IDENTITY = ["tokenizer", "family", "cluster"]
RUN = ["tokenizer", "tokenizer_seed", "seed", "guidance"]
_MISSING = [*IDENTITY, "excluded", "reason"]
_NAMED = 5  # tokenizers that a note names


@dataclass(frozen=True)
class Cells:
    """A metric paired with a target, one row per tokenizer, and all that could not be paired.

    Attributes:
        rows: tokenizer, family, cluster, guidance, x, y and their standard errors x_stderr and
            y_stderr: over trained tokenizers if there are several, else over diffusion seeds, else
            that of the measurement.
        runs: tokenizer, tokenizer_seed, seed, x, y: the runs behind those means.
        missing: tokenizer, family, cluster, excluded (the tokenizer has no row), reason.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    missing: pd.DataFrame
    _parts: dict[str, "Cells"] = field(default_factory=dict, repr=False, compare=False)

    def of_family(self, family: str) -> "Cells":
        """Return the part of one family."""
        if family not in self._parts:
            rows = self.rows[self.rows["family"] == family].reset_index(drop=True)
            runs = self.runs[self.runs["tokenizer"].isin(rows["tokenizer"])].reset_index(drop=True)
            missing = self.missing[self.missing["family"] == family].reset_index(drop=True)
            self._parts[family] = Cells(rows, runs, missing)
        return self._parts[family]

    @property
    def excluded(self) -> list[str]:
        """Tokenizers without a row."""
        return list(dict.fromkeys(self.missing.loc[self.missing["excluded"], "tokenizer"]))

    def missing_note(self) -> str:
        """Return one sentence on the tokenizers and runs left out, or empty."""
        out, notes = self.excluded, []
        partly = self.missing.loc[~self.missing["excluded"], "tokenizer"]
        if out:
            total = len(out) + len(self.rows)
            notes.append(f"{len(out)} of {total} tokenizers left out: {_first(out)}")
        if len(partly):
            names = _first(list(dict.fromkeys(partly)))
            notes.append(f"{len(partly)} unpaired runs left out of the means of: {names}")
        return "; ".join(notes)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def pair(
    tokenizers: pd.DataFrame,
    metric: tuple[str, pd.DataFrame],
    target: tuple[str, pd.DataFrame],
    by_run: bool,
    problem: str = "",
) -> Cells:
    """Match runs of a metric (x) and a target (y), and average them by tokenizer.

    Args:
        tokenizers: tokenizer, family, cluster of every tokenizer of the table.
        metric, target: name, and runs: columns ``RUN``, value, stderr, without missing values.
            `tokenizer` is the row in ``tokenizers``.
        by_run: whether the metric belongs to the diffusion run instead of the tokenizer.
        problem: reason why the target cannot have runs, or empty.
    """
    (x_name, x), (y_name, y) = metric, target
    keys = RUN if by_run else RUN[:2]
    if by_run:
        x = _at_scales_of(x, y)
    place = {key: k for k, key in enumerate(_keys(x, keys))}
    at = np.array([place.get(key, -1) for key in _keys(y, keys)], np.int64)
    order = np.lexsort([y["seed"], y["tokenizer_seed"], y["tokenizer"]])
    order = order[at[order] >= 0]
    mine, theirs = y.iloc[order], x.iloc[at[order]]
    tokenizer, starts = np.unique(mine["tokenizer"], return_index=True)
    rows = tokenizers.iloc[tokenizer].reset_index(drop=True)
    rows["guidance"] = mine["guidance"].to_numpy()[starts]
    for side, own in (("x", theirs), ("y", mine)):
        rows[side], rows[f"{side}_stderr"] = _nested(own)
    runs = mine[["tokenizer_seed", "seed"]].reset_index(drop=True)
    runs.insert(0, "tokenizer", tokenizers["tokenizer"].to_numpy()[mine["tokenizer"]])
    runs["x"], runs["y"] = theirs["value"].to_numpy(), mine["value"].to_numpy()
    there = set(tokenizer.tolist())
    lost = _lost(tokenizers, there, {x_name: x, y_name: y}, problem)
    for left, absent in ((y[at < 0], x_name), (x.drop(x.index[at[order]]), y_name)):
        for index, seed in zip(left["tokenizer"], left["tokenizer_seed"], strict=True):
            if index in there:
                reason = f"tokenizer seed {seed:.0f}: no value of {absent}"
                lost.append((*tokenizers.loc[index, IDENTITY], False, reason))
    missing = pd.DataFrame(lost, columns=_MISSING).astype({"excluded": bool})
    return Cells(rows, runs, missing)


def _keys(runs: pd.DataFrame, names: list[str]) -> list[tuple[float, ...]]:
    """Return what identifies each run; -1 in the place of a missing number."""
    return list(map(tuple, runs[names].fillna(-1.0).to_numpy(float)))


def _at_scales_of(x: pd.DataFrame, y: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of a metric at the guidance scale of the target for their tokenizer.

    Metrics of a trained model have no scale (``fisher.learned_*``): they are paired with that one.
    """
    scale = x["tokenizer"].map(dict(zip(y["tokenizer"], y["guidance"], strict=True)))
    if x["guidance"].isna().all():
        return x.assign(guidance=scale)
    return x[x["guidance"] == scale]


def means_by_tokenizer(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each tokenizer's mean and its standard error, as correlations take them.

    Every training of a tokenizer counts the same, however many diffusion models it has.

    Args:
        rows: measurements of one metric, at one backbone, guidance scale and step.

    Returns:
        Columns value and stderr, by tokenizer in the order of the rows.
    """
    own = rows[rows["value"].notna()]
    codes, names = pd.factorize(own["tokenizer"])
    runs = own.assign(tokenizer=codes, tokenizer_seed=own["tokenizer_seed"].fillna(-1))
    value, stderr = _nested(runs.sort_values("tokenizer", kind="stable"))
    index = pd.Index(names, name="tokenizer")
    return pd.DataFrame({"value": value, "stderr": stderr}, index=index)


def _nested(runs: pd.DataFrame) -> tuple[Array, Array]:
    """Return each tokenizer's mean over its seeds, which may have several runs, and its error."""
    values, errors = runs["value"].to_numpy(float), runs["stderr"].to_numpy(float)
    names = runs[RUN[:2]].to_numpy(float)
    trained, seed = np.unique(names, axis=0, return_inverse=True)
    of_seed = np.unique(trained[:, 0], return_inverse=True)[1]  # the tokenizer's place
    _, starts, of_run = np.unique(names[:, 0], return_index=True, return_inverse=True)
    mean, between, seeds = _means(_means(values, seed.ravel())[0], of_seed)
    # a tokenizer's metric is repeated over the diffusion seeds: no spread, hence no estimate
    varies = np.bincount(of_run, values != values[starts][of_run]) > 0
    error = np.where(varies, _means(values, of_run)[1], errors[starts])
    return mean, np.where(seeds > 1, between, error)


def _means(values: Array, codes: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Return mean, its standard error and number of the values of each code 0, 1, ..."""
    size = np.bincount(codes).astype(float)
    mean = np.bincount(codes, values) / size
    squares = np.bincount(codes, (values - mean[codes]) ** 2)
    return mean, np.sqrt(squares / np.maximum(size - 1, 1) / size), size


def _lost(
    tokenizers: pd.DataFrame, there: set[int], sides: dict[str, pd.DataFrame], problem: str
) -> list[tuple[object, ...]]:
    """Return a row for every tokenizer without any pair."""
    lost: list[tuple[object, ...]] = []
    for index, *identity in tokenizers[IDENTITY].itertuples(name=None):
        if index not in there:
            absent = [name for name, runs in sides.items() if index not in set(runs["tokenizer"])]
            reason = f"no value of {' and '.join(absent)}" if absent else "no seed has both values"
            lost.append((*identity, True, problem or reason))
    return lost
