"""Pairing of a metric's runs with a target's: matched by seed, then averaged by tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

IDENTITY = ["tokenizer", "family", "cluster"]
MEASURED, DIFFUSION_SEEDS, TOKENIZER_SEEDS = "measurement", "diffusion seeds", "tokenizer seeds"
_MISSING = [*IDENTITY, "excluded", "reason"]


@dataclass(frozen=True)
class Runs:
    """The values of one metric, one entry per run, without missing values.

    Attributes:
        tokenizer: (N,) index of the tokenizer in the table. tokenizer_seed: (N,) its seed.
        seed: (N,) diffusion seed, -1 if not applicable. guidance: (N,) guidance scale or NaN.
        value: (N,) in the metric's unit. stderr: (N,) its standard error or NaN.
    """

    tokenizer: NDArray[np.int64]
    tokenizer_seed: NDArray[np.int64]
    seed: NDArray[np.int64]
    guidance: NDArray[np.float64]
    value: NDArray[np.float64]
    stderr: NDArray[np.float64]

    @classmethod
    def of(cls, rows: pd.DataFrame, index: Mapping[str, int]) -> "Runs":
        """Return the runs in rows of a tidy table; ``index`` numbers its tokenizers."""
        rows = rows[rows["value"].notna()]
        return cls(
            np.asarray(rows["tokenizer"].map(index), np.int64),
            np.asarray(rows["tokenizer_seed"], np.int64),
            np.asarray(rows["seed"].fillna(-1), np.int64),
            *(rows[name].to_numpy(np.float64) for name in ("guidance", "value", "stderr")),
        )

    @classmethod
    def empty(cls) -> "Runs":
        """Return an empty set of runs."""
        whole, real = np.empty(0, np.int64), np.empty(0, np.float64)
        return cls(whole, whole, whole, real, real, real)

    def where(self, chosen: NDArray[np.bool_]) -> "Runs":
        """Return the runs for which ``chosen`` (N,) is true."""
        return Runs(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def at_scales_of(self, other: "Runs") -> "Runs":
        """Return the runs at the guidance scales of the other metric for their tokenizer.

        Metrics of a trained model have no scale (``fisher.learned_*``): they are paired with the
        single scale of the other metric for the tokenizer.
        """
        if np.isnan(self.guidance).all():
            scales = dict(zip(other.tokenizer.tolist(), other.guidance.tolist(), strict=True))
            guidance = [scales.get(index, np.nan) for index in self.tokenizer.tolist()]
            return replace(self, guidance=np.array(guidance, np.float64))
        theirs = set(zip(other.tokenizer.tolist(), other.scale.tolist(), strict=True))
        mine = zip(self.tokenizer.tolist(), self.scale.tolist(), strict=True)
        return self.where(np.fromiter((key in theirs for key in mine), np.bool_, len(self.value)))

    @property
    def scale(self) -> NDArray[np.float64]:
        """(N,) guidance scale as a key: -1 if not applicable, since NaN never equals NaN."""
        return np.nan_to_num(self.guidance, nan=-1.0)

    def keys(self, by_run: bool) -> list[tuple[float, ...]]:
        """Return the key for matching runs: tokenizer and its seed, and the diffusion run."""
        columns = [self.tokenizer, self.tokenizer_seed]
        if by_run:
            columns += [self.seed, self.scale]  # type: ignore[list-item]
        return list(zip(*(column.tolist() for column in columns), strict=True))


def pair(
    tokenizers: pd.DataFrame,
    metric: tuple[str, Runs],
    target: tuple[str, Runs],
    by_run: bool,
    problem: str = "",
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Match runs of a metric (x) and a target (y), and average them by tokenizer.

    Args:
        tokenizers: tokenizer, family, cluster of every tokenizer of the table.
        metric: name and runs. target: name and runs.
        by_run: whether the metric belongs to the diffusion run instead of the tokenizer.
        problem: reason why the target cannot have runs, or empty.

    Returns:
        ``rows``, ``runs`` and ``missing`` of ``tables.Cells``.
    """
    x, y = metric[1], target[1]
    x_keys, y_keys = x.keys(by_run), y.keys(by_run)
    indices: dict[tuple[float, ...], list[int]] = {}
    for index, key in enumerate(x_keys):
        indices.setdefault(key, []).append(index)
    matches = [(i, j) for i, key in enumerate(y_keys) for j in indices.get(key, ())]
    mine, theirs = np.array(matches, np.int64).reshape(-1, 2).T
    order = np.lexsort([column[mine] for column in (y.seed, y.tokenizer_seed, y.tokenizer)])
    mine, theirs = mine[order], theirs[order]
    both = (
        *(column[mine] for column in (y.tokenizer, y.tokenizer_seed, y.seed, y.guidance)),
        *(x.value[theirs], y.value[mine], x.stderr[theirs], y.stderr[mine]),
    )
    rows, runs = _averages(tokenizers, *both)
    known = set(y_keys)
    single = [(key, metric[0]) for key in y_keys if key not in indices]
    single += [(key, target[0]) for key in x_keys if key not in known]
    lost = _lost(tokenizers, set(both[0].tolist()), dict((metric, target)), problem)
    lost += _unpaired(tokenizers, set(both[0].tolist()), single)
    return rows, runs, pd.DataFrame(lost, columns=_MISSING).astype({"excluded": bool})


def _averages(
    tokenizers: pd.DataFrame,
    tokenizer: np.ndarray,
    tokenizer_seed: np.ndarray,
    seed: np.ndarray,
    guidance: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    x_stderr: np.ndarray,
    y_stderr: np.ndarray,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows and runs of matched runs, ordered by tokenizer and its seed."""
    names = tokenizers["tokenizer"].to_numpy()
    runs = pd.DataFrame(
        {
            "tokenizer": names[tokenizer],
            "tokenizer_seed": tokenizer_seed,
            "seed": np.where(seed < 0, np.nan, seed),
            **{"x": x, "y": y},
        }
    )
    starts = group_starts(tokenizer)
    x_mean, x_error, _ = _nested(x, x_stderr, tokenizer, tokenizer_seed)
    y_mean, y_error, source = _nested(y, y_stderr, tokenizer, tokenizer_seed)
    trained = group_starts(tokenizer, tokenizer_seed)
    rows = pd.DataFrame(
        {
            **{name: tokenizers[name].to_numpy()[tokenizer[starts]] for name in IDENTITY},
            "guidance": guidance[starts],
            **{"x": x_mean, "y": y_mean, "x_stderr": x_error, "y_stderr": y_error},
            "stderr_of": source,
            "tokenizer_seeds": group_sizes(group_starts(tokenizer[trained]), len(trained)),
            "runs": group_sizes(starts, len(tokenizer)),
        }
    )
    return rows, runs


def _nested(
    values: np.ndarray, stderr: np.ndarray, tokenizer: np.ndarray, tokenizer_seed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over trained tokenizers, its standard error, and the error's source."""
    if not len(values):
        return values, stderr, np.empty(0, dtype=object)
    inner, outer = group_starts(tokenizer, tokenizer_seed), group_starts(tokenizer)
    trained = np.add.reduceat(values, inner) / group_sizes(inner, len(values))
    groups = group_starts(tokenizer[inner])
    count, runs = group_sizes(groups, len(inner)), group_sizes(outer, len(values))
    mean = np.add.reduceat(trained, groups) / count

    def spread(data: np.ndarray, indices: np.ndarray, size: np.ndarray) -> np.ndarray:
        centre = np.add.reduceat(data, indices) / size
        squares = np.add.reduceat((data - np.repeat(centre, size)) ** 2, indices)
        return np.sqrt(squares / np.maximum(size - 1, 1) / size)

    # a tokenizer's metric is repeated over the diffusion seeds: no spread, hence no estimate
    varies = np.maximum.reduceat(values, outer) > np.minimum.reduceat(values, outer)
    error = np.where(varies, spread(values, outer, runs), stderr[outer])
    error = np.where(count > 1, spread(trained, groups, count), error)
    source = np.where(np.isnan(error), "", MEASURED).astype(object)
    source[varies] = DIFFUSION_SEEDS
    source[count > 1] = TOKENIZER_SEEDS
    return mean, error, source


def group_starts(*columns: np.ndarray) -> NDArray[np.int64]:
    """Return the indices where a new combination of values starts in grouped columns."""
    if not len(columns[0]):
        return np.empty(0, np.int64)
    changes = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.flatnonzero(np.concatenate([[True], changes]))


def group_sizes(starts: np.ndarray, total: int) -> NDArray[np.int64]:
    """Return the length of each group from the start indices."""
    return np.diff(starts, append=total)


def _lost(
    tokenizers: pd.DataFrame, there: set[int], sides: dict[str, Runs], problem: str
) -> list[tuple[object, ...]]:
    """Return a row for every tokenizer without any pair."""
    if len(there) == len(tokenizers):
        return []
    known = {name: set(runs.tokenizer.tolist()) for name, runs in sides.items()}
    lost: list[tuple[object, ...]] = []
    for index, identity in enumerate(tokenizers[IDENTITY].itertuples(index=False, name=None)):
        if index in there:
            continue
        absent = [name for name, has in known.items() if index not in has]
        reason = f"no value of {' and '.join(absent)}" if absent else "no seed has both values"
        lost.append((*identity, True, problem or reason))
    return lost


def _unpaired(
    tokenizers: pd.DataFrame, there: set[int], single: list[tuple[tuple[float, ...], str]]
) -> list[tuple[object, ...]]:
    """Return a row for every run left out of the means of a paired tokenizer."""
    return [
        (
            *(tokenizers[name].iloc[int(key[0])] for name in IDENTITY),
            False,
            f"tokenizer seed {int(key[1])}: no value of {absent}",
        )
        for key, absent in sorted(single)
        if key[0] in there
    ]
