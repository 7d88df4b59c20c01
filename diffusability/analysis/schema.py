"""The columns of the tidy table, and the checks that a table of measurements must pass."""

import numpy as np
import pandas as pd

from diffusability.errors import MeasurementError

COLUMNS = (
    "study",
    "dataset",
    "tokenizer",
    "family",
    "cluster",
    "tokenizer_seed",
    "backbone",
    "seed",
    "cfg",
    "metric",
    "value",
    "stderr",
    "n",
    "unit",
    "higher_is_better",
    "flags",
    "options",
    "fingerprint",
)
INTEGERS = ("tokenizer_seed", "seed", "n")
NUMBERS = ("cfg", "value", "stderr")
TEXT = tuple(c for c in COLUMNS if c not in (*INTEGERS, *NUMBERS, "higher_is_better"))
CELL = ("tokenizer", "tokenizer_seed", "backbone", "seed", "cfg", "metric")
_TRUTH = {"true": True, "false": False, "": None}


def join_notes(*notes: object) -> str:
    """Return the different, non-empty notes as one."""
    return "; ".join(dict.fromkeys(str(note) for note in notes if note))


def check_measurements(frame: pd.DataFrame, source: str = "table") -> pd.DataFrame:
    """Return the tidy table with its types, or refuse it.

    Args:
        frame: one row a number, columns ``COLUMNS``; further columns are kept. Empty text or NaN
            in ``seed``, ``cfg``, ``stderr`` and ``higher_is_better`` means "does not apply", in
            ``value`` a missing cell.
        source: what to call the table in messages.

    Returns:
        A copy: text columns as str, seeds and ``n`` as Int64, ``cfg``, ``value`` and ``stderr``
        as float64 (NaN: absent), ``higher_is_better`` as nullable boolean. Idempotent.

    Raises:
        MeasurementError: missing columns, no rows, a cell of the wrong type, several studies or
            datasets, a cell given twice (with one fingerprint or with two), a tokenizer in two
            families or clusters, a metric measured in two units or with two directions.
    """
    absent = [c for c in COLUMNS if c not in frame.columns]
    if absent:
        raise MeasurementError(
            f"{source}: columns {', '.join(absent)} are missing; write it again with `tabulate`"
        )
    if frame.empty:
        raise MeasurementError(f"{source}: the table holds no measurement; run the study first")
    table = frame.reset_index(drop=True).copy()
    for column in TEXT:
        table[column] = table[column].fillna("").astype(str)
    for column in (*INTEGERS, *NUMBERS):
        table[column] = _numeric(table[column], source)
    for column in INTEGERS:
        if (table[column].dropna() % 1 != 0).any():
            raise MeasurementError(f"{source}: column {column} holds a number that is not whole")
        table[column] = table[column].astype("Int64")
    if table["tokenizer_seed"].isna().any():
        raise MeasurementError(f"{source}: a row has no tokenizer_seed; every tokenizer has one")
    if np.isinf(table["value"]).any():
        raise MeasurementError(f"{source}: a value is infinite; remove or repeat the measurement")
    table["higher_is_better"] = _boolean(table["higher_is_better"], source)
    _check_one_study(table, source)
    _check_cells(table, source)
    return table


def _numeric(column: pd.Series, source: str) -> pd.Series:
    filled = column.astype(object).where(column.notna(), "")
    text = filled.map(lambda cell: "" if isinstance(cell, str) and not cell.strip() else cell)
    numbers = pd.to_numeric(text.replace("", np.nan), errors="coerce").astype(float)
    bad = numbers.isna() & (text.astype(str) != "")
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise MeasurementError(
            f"{source}: column {column.name}, row {row}: {text.iloc[row]!r} is not a number"
        )
    return numbers


def _boolean(column: pd.Series, source: str) -> pd.Series:
    text = column.astype(object).where(column.notna(), "").map(lambda cell: str(cell).lower())
    unknown = sorted(set(text) - set(_TRUTH))
    if unknown:
        raise MeasurementError(
            f"{source}: higher_is_better holds {unknown[0]!r}; write True, False or nothing"
        )
    return pd.Series([_TRUTH[cell] for cell in text], index=column.index, dtype="boolean")


def _check_one_study(table: pd.DataFrame, source: str) -> None:
    """Refuse what makes the rows of a table incomparable."""
    for column in ("study", "dataset"):
        names = sorted(table[column].unique())
        if len(names) > 1:
            raise MeasurementError(
                f"{source}: {len(names)} different values of {column} ({', '.join(names)}); "
                "analyse one at a time, or compare two with `diffusability compare`"
            )
    measured = table[table["value"].notna()]  # a declared empty cell knows neither unit nor sign
    for key, columns, rows in (
        ("tokenizer", ("family", "cluster"), table),
        ("metric", ("unit", "higher_is_better"), measured),
    ):
        for column in columns:
            kinds = rows.groupby(key, sort=False)[column].nunique(dropna=False)
            if (kinds > 1).any():
                name = kinds.index[kinds > 1][0]
                raise MeasurementError(
                    f"{source}: {key} {name} has {kinds[name]} different values of {column}"
                )


def _check_cells(table: pd.DataFrame, source: str) -> None:
    """Refuse a number that is given twice."""
    repeated = table.duplicated(list(CELL), keep=False)
    if not repeated.any():
        return
    first = table[repeated].iloc[0]
    same = (table[list(CELL)].fillna(-1) == first[list(CELL)].fillna(-1)).all(axis=1)
    prints = sorted(table.loc[same, "fingerprint"].unique())
    known = [column for column in CELL if pd.notna(first[column]) and first[column] != ""]
    name = ", ".join(f"{column} {first[column]}" for column in known)
    if len(prints) > 1:
        raise MeasurementError(
            f"{source}: two artifacts give one cell ({name}): fingerprints {', '.join(prints)}; "
            "keep the rows of one state of the study"
        )
    raise MeasurementError(f"{source}: one cell is given {int(same.sum())} times ({name})")
