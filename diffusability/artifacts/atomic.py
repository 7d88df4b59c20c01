"""Atomic file writes."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusability.errors import ArtifactError
from diffusability.study.core.commands import diffusability_command

COPIED = 16 * 2**20  # bytes copied at a time between file systems


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn operating-system errors (full disk, no permission) into one message about `path`.

    Raises:
        ArtifactError: instead of the operating system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            free = shutil.disk_usage(folder).free
            raise ArtifactError(
                f"{path}: the disk is full ({free / 2**20:.0f} MiB free). No partial file was "
                f"kept; free some space (`{diffusability_command('gc')}` lists what can be "
                "removed) and run again"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            where = error.filename or path
            raise ArtifactError(f"{where}: cannot be written ({error.strerror})") from error
        if error.errno == errno.EIO:
            raise ArtifactError(f"{error.filename or path}: the disk fails ({error})") from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a crash leaves the old file or the new one."""
    with writing(path) as unfinished:
        unfinished.write_bytes(data)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it replaces `path` at the end of the block if nothing fails."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that it holds; what is already gone is no error."""

    def passed_over(_function: object, _path: object, error: Any) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    shutil.rmtree(folder, onerror=passed_over)


def move(source: Path, target: Path) -> None:
    """Move a file atomically, also to another file system, where it is copied first."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = _temporary(target)
        try:
            with source.open("rb") as whole, temporary.open("wb") as copy:
                shutil.copyfileobj(whole, copy, COPIED)
                copy.flush()
                os.fsync(copy.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        source.unlink()


def leftovers(folder: Path) -> Iterator[Path]:
    """Yield the unfinished files in a folder; they are of killed processes if nothing writes it."""
    yield from folder.glob(".*.tmp")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented, key-sorted JSON, atomically; NaN is refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
