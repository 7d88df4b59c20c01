"""Identity of files that come from outside: a hash of their bytes, which costs a stat afterwards.

Digests are remembered in the user's cache by path, size, time of modification and inode. A file
that changes in any of these is read again.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from diffusability.study.fingerprint import canonical_json
from diffusability.study.user_cache import cached, recall, remember

CHUNK = 2**20  # bytes read at a time
SETTLED = 2_000_000_000  # nanoseconds after which a further change gets another time for sure


def content_digest(path: str | Path, suffixes: tuple[str, ...] = ()) -> str | None:
    """Return the SHA-256 of a file, or of a folder's files with their relative names.

    A folder's digest does not depend on the folder's own name or position. Hidden files and
    folders, and `__pycache__`, stay out.

    Args:
        path: file or folder.
        suffixes: of the files of a folder that count, for example (".py",); all by default.

    Returns:
        64 hexadecimal digits, or None where there is nothing at `path` (for a folder: no file).
    """
    path = Path(path).absolute()
    if path.is_file():
        return _digests(path, [path])[path.name]
    if not path.is_dir():
        return None
    files = [file for file in _below(path) if not suffixes or file.suffix in suffixes]
    if not files:
        return None
    return hashlib.sha256(canonical_json(_digests(path, files)).encode()).hexdigest()


def _below(folder: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f[0] != "." and f != "__pycache__")
        yield from (Path(parent, name) for name in sorted(files) if name[0] != ".")


def _digests(root: Path, files: list[Path]) -> dict[str, str]:
    """Return the digest of every file by its name relative to `root`, reading what is new."""
    memory = _memory(root)
    known = recall(memory)
    digests, remembered = {}, {}
    for file in files:
        name = file.name if file == root else file.relative_to(root).as_posix()
        found = file.stat()
        stat = [found.st_size, found.st_mtime_ns, found.st_ino]
        row = known.get(name)
        if isinstance(row, list) and row[:3] == stat and len(row) == 4:
            digest = str(row[3])
        else:
            digest = _sha256(file)
        digests[name] = digest
        if time.time_ns() - found.st_mtime_ns > SETTLED:
            remembered[name] = [*stat, digest]
    if any(known.get(name) != row for name, row in remembered.items()):
        remember(memory, known | remembered)
    return digests


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while part := handle.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def _memory(root: Path) -> Path:
    """Return the file that remembers the digests below one path."""
    return cached("content", f"{hashlib.sha256(str(root).encode()).hexdigest()[:32]}.json")
