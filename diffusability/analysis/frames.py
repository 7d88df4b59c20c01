"""Tables as data frames and as CSV files, typed as `study/planning/tables.py` declares."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.result_card import check_result
from diffusability.errors import MeasurementError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.planning.tables import BEST, Kind, table_named

DIGITS = 6  # significant digits of results, more than resampling error allows
_TRUTH = {"true": True, "false": False, "": None}


def join_notes(*notes: object) -> str:
    """Return the distinct, non-empty notes joined."""
    return "; ".join(dict.fromkeys(str(note) for note in notes if note))


def with_interval(value: float, low: float, high: float, named: str = "") -> str:
    """Return "value [low, high]", or the known part of it; `named` stands before the ends."""
    if pd.isna(value):
        return "none"
    if pd.isna(low) or pd.isna(high):
        return f"{value:.2f}, no interval"
    return f"{value:.2f}{named} [{low:.2f}, {high:.2f}]"


def is_true(cell: object) -> bool:
    """Return whether a cell of truth is true; a missing one is not."""
    return bool(pd.notna(cell) and cell)  # type: ignore[call-overload]


def rows_where(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Return the rows whose columns have the given values; None matches a missing cell."""
    for column, value in wanted.items():  # one column after the other: tables can be long
        table = table[table[column].isna() if value is None else table[column] == value]
    return table


def in_words(names: Sequence[str]) -> str:
    """Return names as `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def table_frame(name: str, rows: Iterable[Mapping[str, object]] | pd.DataFrame) -> pd.DataFrame:
    """Return rows as the named table; missing values become empty cells."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    return typed(frame.reindex(columns=list(table_named(name).columns)), name)


def typed(frame: pd.DataFrame, name: str, source: str = "table") -> pd.DataFrame:
    """Return a copy of a frame with the declared types of a table's columns.

    Args:
        frame: has every column of the table, in any order; additional columns are kept.
        name: of the table. source: name of the frame in messages.

    Returns:
        Texts as str, numbers as float64, integers as Int64, booleans as boolean; a guidance is a
        float, `BEST`, or NaN. Empty cells are "" in texts and missing in all others.

    Raises:
        MeasurementError: a column is missing that is not of `Table.further`, or a cell is not of
            its type.
    """
    kinds, further = table_named(name).columns, table_named(name).further
    frame = frame.assign(**{column: None for column in further if column not in frame.columns})
    absent = [column for column in kinds if column not in frame.columns]
    if absent:
        raise MeasurementError(
            f"{source}: columns {', '.join(absent)} are missing; "
            f"make it again with: {snakemake_command('-c2', '-f', str(source))}"
        )
    table = frame.reset_index(drop=True).copy()
    for column, kind in kinds.items():
        table[column] = _CONVERTED[kind](table[column], source)
    return table


def read_table(path: str | PathLike[str], name: str = "") -> pd.DataFrame:
    """Read a table from CSV.

    Args:
        path: of the file. name: of the table, by default that of the file.

    Raises:
        ArtifactError: the file was altered after it was made.
        MeasurementError: the file cannot be read, or is not such a table.
    """
    check_result(Path(path))
    try:
        # read as text first: only empty cells are missing, and a tokenizer may be called "nan"
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MeasurementError(f"{path}: cannot be read as a table: {error}") from error
    return typed(frame, name or Path(path).stem, str(path))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, atomically.

    Measurements keep all digits; derived tables keep ``DIGITS`` significant digits.
    """
    exact = not table_named(path.stem).made_from
    text = table.to_csv(index=False, float_format=None if exact else f"%.{DIGITS}g")
    write_bytes(path, text.encode())


def write_tables(paths: Sequence[Path], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write each file as the table with its name."""
    for path in paths:
        write_table(path, tables[path.stem])


def _texts(cells: pd.Series, source: str) -> pd.Series:
    return cells.astype(object).where(cells.notna(), "").astype(str)


def _numbers(cells: pd.Series, source: str) -> pd.Series:
    if cells.dtype == np.float64:
        return cells
    filled = cells.astype(object).where(cells.notna(), "")
    text = filled.map(lambda cell: "" if isinstance(cell, str) and not cell.strip() else cell)
    numbers = pd.to_numeric(text.replace("", np.nan), errors="coerce").astype(float)
    bad = numbers.isna() & (text.astype(str) != "")
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise MeasurementError(
            f"{source}: column {cells.name}, row {row}: {text.iloc[row]!r} is not a number"
        )
    return numbers


def _integers(cells: pd.Series, source: str) -> pd.Series:
    numbers = _numbers(cells, source)
    if (numbers.dropna() % 1 != 0).any():
        raise MeasurementError(
            f"{source}: column {cells.name} holds a number that is not an integer"
        )
    return numbers.astype("Int64")


def _truths(cells: pd.Series, source: str) -> pd.Series:
    text = cells.astype(object).where(cells.notna(), "").map(lambda cell: str(cell).lower())
    unknown = sorted(set(text) - set(_TRUTH))
    if unknown:
        raise MeasurementError(
            f"{source}: {cells.name} holds {unknown[0]!r}; write True, False or nothing"
        )
    return pd.Series([_TRUTH[cell] for cell in text], index=cells.index, dtype="boolean")


def _guidance(cells: pd.Series, source: str) -> pd.Series:
    best = cells.map(lambda cell: isinstance(cell, str) and cell == BEST).astype(bool)
    scales = _numbers(cells.astype(object).where(~best, np.nan), source)
    return scales.astype(object).where(~best, BEST) if best.any() else scales


_CONVERTED: Mapping[Kind, Callable[[pd.Series, str], pd.Series]] = {
    "text": _texts,
    "number": _numbers,
    "integer": _integers,
    "truth": _truths,
    "guidance": _guidance,
}
