"""Parquet files as the Hugging Face hub stores image data sets.

Parquet is read by row groups. Those last used are kept, up to a limit of memory, so that images in
random order cost least if row groups are small: the hub's have 100 rows.
"""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffusability.data.archive import Archive, Archives, Member
from diffusability.data.image_file import DamagedImage
from diffusability.errors import DataError
from diffusability.study.entries.dataset import ParquetDataset

KEPT = 2**29  # bytes of row groups kept in memory per process


class ParquetFiles(Archive[ParquetDataset]):
    """Parquet files; every row group is read through a handle of its own."""

    def __init__(self, spec: ParquetDataset, files: Sequence[Path]) -> None:
        """Read nothing yet."""
        super().__init__(spec, files)
        self._footers: dict[int, tuple[Any, str, list[int]]] = {}
        self._groups = RowGroups()

    def members(self, number: int) -> list[Member]:
        """Return the rows, by number."""
        file = self.files[number]
        footer, _, _ = self._footer(number)
        label = self.spec.label
        if label not in footer.schema.to_arrow_schema().names:
            if self.spec.num_classes > 1:
                raise DataError(
                    f"{file}: has no column `{label}` ({_columns(footer)}); set the dataset's "
                    "`label` to that of the class numbers"
                )
            return [Member(str(row), None) for row in range(footer.num_rows)]
        try:
            column = pq.ParquetFile(file, metadata=footer).read([label], use_threads=False)[label]
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: the column `{label}` cannot be read ({error})") from None
        if not pa.types.is_integer(column.type):
            raise DataError(f"{file}: the column `{label}` is of type {column.type}, no integers")
        return [Member(str(row), value) for row, value in enumerate(column.to_pylist())]

    def content(self, number: int, name: str) -> bytes:
        """Return the image file of a row."""
        footer, column, ends = self._footer(number)
        row = int(name)
        group = bisect_right(ends, row)
        start = ends[group - 1] if group else 0
        values = self._groups.get(self.files[number], footer, group, column)
        content = values[row - start].as_py()
        if content is None:
            raise DamagedImage("the row holds no bytes; its image is outside the Parquet file")
        return bytes(content)

    def _footer(self, number: int) -> tuple[Any, str, list[int]]:
        """Return metadata, path of the column of bytes, and the last row + 1 of every group."""
        if number not in self._footers:
            file = self.files[number]
            try:
                footer = pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{file}: cannot be read as Parquet ({error})") from None
            rows = [footer.row_group(k).num_rows for k in range(footer.num_row_groups)]
            column = _bytes_column(file, footer, self.spec.image)
            self._footers[number] = footer, column, list(accumulate(rows))
        return self._footers[number]


class RowGroups:
    """The row groups of images that were used last, of this process."""

    def __init__(self) -> None:
        self._process = 0
        self._start()

    def get(self, file: Path, footer: Any, group: int, column: str) -> pa.ChunkedArray:
        """Return the values of a column in a row group, read by one thread at a time."""
        if self._process != os.getpid():  # a lock from before a fork may be held for ever
            self._start()
        key = file, group
        with self._lock:
            values, reading = self._kept.setdefault(key, ([], Lock()))
            self._kept.move_to_end(key)
        with reading:
            if not values:
                values.append(_read_group(file, footer, group, column))
                with self._lock:
                    self._bytes += values[0].nbytes
                    self._forget(key)
        return values[0]

    def _forget(self, kept: tuple[Path, int]) -> None:
        for key in list(self._kept):
            if self._bytes <= KEPT:
                return
            values, _ = self._kept[key]
            if values and key != kept:
                self._bytes -= values[0].nbytes
                del self._kept[key]

    def _start(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], tuple[list[pa.ChunkedArray], Lock]]
        self._kept, self._bytes, self._lock = OrderedDict(), 0, Lock()
        self._process = os.getpid()


class ParquetImages(Archives[ParquetDataset]):
    """Images of Parquet files."""

    archive = ParquetFiles


def _read_group(file: Path, footer: Any, group: int, column: str) -> pa.ChunkedArray:
    try:  # without Arrow's threads, which a fork does not copy
        opened = pq.ParquetFile(file, metadata=footer, pre_buffer=False)
        table = opened.read_row_group(group, [column], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # else of Arrow's own
            raise DataError(f"{file}: cannot be read ({error})") from None
        raise DamagedImage(f"row group {group}: {error}") from None
    values = table.column(0)
    if pa.types.is_struct(values.type):
        values = pa.chunked_array([chunk.field("bytes") for chunk in values.chunks])
    return values


def _bytes_column(file: Path, footer: Any, name: str) -> str:
    """Return the path of the column with the images' bytes."""
    schema = footer.schema.to_arrow_schema()
    if name not in schema.names:
        raise DataError(
            f"{file}: has no column `{name}` ({_columns(footer)}); set the dataset's `image` to "
            "that of the images"
        )
    kind = schema.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, name = kind.field("bytes").type, f"{name}.bytes"
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{file}: the column `{name}` is of type {kind}, not bytes of image files")
    return name


def _columns(footer: Any) -> str:
    return "it has " + ", ".join(footer.schema.to_arrow_schema().names)
