"""Identity of files that come from outside: a hash of their bytes, which costs a stat afterwards.

Digests are remembered in the user's cache by path, size, time of modification and inode. A file
that changes in any of these is read again.
"""

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from diffusability.study.core.fingerprint import canonical_json
from diffusability.study.core.user_cache import cached, recall, remember

logger = logging.getLogger(__name__)
READERS = 8  # files read at a time
ANNOUNCED = 2 * 10**9  # bytes; reading more takes long enough to say so
UNREADABLE = "unreadable"
ZARR = (".zarray", ".zgroup")  # of version 2
SETTLED = 2_000_000_000  # nanoseconds after which a further change gets another time for sure


def is_digest(content: str) -> bool:
    """Return whether `content` is a hash of bytes rather than a name that a person gave."""
    return re.fullmatch("[0-9a-f]{64}", content) is not None


def content_digest(path: str | Path, suffixes: tuple[str, ...] = ()) -> str | None:
    """Return the SHA-256 of a file, or of a folder's files with their relative names.

    A folder's digest does not depend on the folder's own name or position. Hidden files and
    folders, and `__pycache__`, stay out, but for those that state the shape of a zarr array.

    Args:
        path: file or folder.
        suffixes: of the files of a folder that count, for example (".py",); all by default.

    Returns:
        64 hexadecimal digits, or None where there is nothing at `path` (for a folder: no file).
    """
    path = Path(path).absolute()
    if os.path.isfile(path):  # unlike `is_file`, without an error for a path that is too long
        return file_digests(path.parent, [path.name], memory=path)[path.name]
    if not os.path.isdir(path):
        return None
    files = [file for file in _below(path) if not suffixes or file.suffix in suffixes]
    if not files:
        return None
    digests = file_digests(path, [file.relative_to(path).as_posix() for file in files])
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def file_digests(root: Path, names: Iterable[str], memory: Path | None = None) -> dict[str, str]:
    """Return the SHA-256 of files below `root` by their names, reading those that are new.

    Args:
        root: absolute path.
        names: relative to `root`.
        memory: path under which the digests are remembered; by default `root`.

    Returns:
        64 hexadecimal digits for each file; `unreadable` for one that cannot be read.
    """
    remembered = _memory(memory or root)
    known = {name: row for name, row in recall(remembered).items() if _is_row(row)}
    stats = {name: _stat(root / name) for name in names}
    new = [name for name, row in stats.items() if row and known.get(name, [])[:3] != row]
    unread = sum(row[0] for name in new if (row := stats[name]))
    if unread > ANNOUNCED:
        logger.warning(
            "%s: reading %.0f GB in %d files once, to know them by their content (for images, "
            "the key `content` gives them a name instead)",
            *(root, unread / 1e9, len(new)),
        )
    with ThreadPoolExecutor(READERS) as pool:
        read = dict(zip(new, pool.map(lambda name: _sha256(root / name), new), strict=True))
    digests, rows = {}, {}
    for name, row in stats.items():
        digests[name] = read.get(name) or (str(known[name][3]) if row else UNREADABLE)
        if row and digests[name] != UNREADABLE and time.time_ns() - row[1] > SETTLED:
            rows[name] = [*row, digests[name]]
    if any(known.get(name) != row for name, row in rows.items()):
        remember(remembered, known | rows)
    return digests


def _below(folder: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f[0] != "." and f != "__pycache__")
        yield from (Path(parent, n) for n in sorted(files) if n[0] != "." or n in ZARR)


def _stat(file: Path) -> list[int] | None:
    """Return size, time of modification and inode; None for what cannot be read as a file."""
    try:
        found = file.stat()
    except OSError:
        return None
    regular = stat.S_ISREG(found.st_mode)
    return [found.st_size, found.st_mtime_ns, found.st_ino] if regular else None


def _is_row(row: object) -> bool:
    return isinstance(row, list) and len(row) == 4


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return UNREADABLE


def _memory(root: Path) -> Path:
    """Return the file that remembers the digests below one path."""
    return cached("content", f"{hashlib.sha256(str(root).encode()).hexdigest()[:32]}.json")
