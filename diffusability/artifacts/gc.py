"""What can be removed: artifacts that no study names, evictable bulk, abandoned state."""

import contextlib
import errno
import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusability.artifacts.atomic import disk_errors, remove_tree
from diffusability.artifacts.bulk import cache_folder, marker
from diffusability.artifacts.inventory import (
    bytes_of,
    files,
    finished,
    is_done,
    remove_empty_parents,
    size,
    state_of,
)
from diffusability.artifacts.lock import empty, exclusive, holder, read_by_holder
from diffusability.errors import ArtifactBusyError
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import CARD, RESULTS, STAGES

FINGERPRINT = re.compile("[0-9a-f]{12}")
SETTLED = 3600  # seconds without a change after which an unfinished file is taken to be left
LEFT = "left by a job that was killed"


@dataclass(frozen=True)
class Garbage:
    """A folder that can go, why, and how large it is in bytes.

    Attributes:
        path: the folder.
        reason: why it can go.
        bytes: what that frees.
        lock: the file that its writers lock; None where it has no writer.
        pattern: of the files in it that go; all of them, and the folder, where it is empty.
        users: lock files; while one of them is held the folder stays.
        marker: file that says that the bulk was restored, which goes with it.
    """

    path: Path
    reason: str
    bytes: int
    lock: Path | None = None
    pattern: str = ""
    users: tuple[Path, ...] = ()
    marker: Path | None = None


def find_garbage(used: Collection[str]) -> list[Garbage]:
    """Return what can be removed without losing anything that a study names.

    Args:
        used: paths of every artifact of every study that is to be kept.
    """
    kept = {Path(path) for path in used}
    fingerprints = {path.name for path in kept}  # which the cache is named by
    # made before the study called it otherwise: see `folder_of`
    renamed = {(path.parts[1], path.name) for path in kept if not (path / CARD).exists()}
    found = [
        Garbage(path, "no study names it", size(path), _state(path) / "lock")
        for path in finished()
        if path not in kept and (path.parts[1], path.name) not in renamed
    ]
    found += [
        Garbage(path, "latents of a tokenizer that no study names", size(path), path / "lock")
        for path in _folders(Path(RESULTS, "cache", "latents"))
        if path.name not in fingerprints
    ]
    found += [
        Garbage(path, "state of a run that no study names", size(path), path / "lock")
        for path in _states()
        if _artifact(path) not in kept
    ]
    return found


def find_leftovers(used: Collection[str]) -> list[Garbage]:
    """Return unfinished files and free locks that killed jobs left in what is kept.

    A file counts as left when nothing was written to it for an hour: files are written in one go.

    Args: those of ``find_garbage``.
    """
    kept = {Path(path) for path in used}
    fingerprints = {path.name for path in kept}
    found = []
    for file in _all_files():
        place = file.parts[1]
        cached = place == "cache" and file.parent.name in fingerprints
        if file.name == "lock" and cached and holder(file) is None and file.exists():
            found.append(Garbage(file, LEFT, bytes_of(file), file))
        if not (file.name.startswith(".") and file.name.endswith(".tmp") and _settled(file)):
            continue
        known = place in (*STAGES, "cache", "state")
        if not known or cached or _artifact(file.parent) in kept:  # else it goes with its folder
            lock = _state(file.parent) if place in STAGES else file.parent
            found.append(Garbage(file, LEFT, bytes_of(file), lock / "lock" if known else None))
    return found


def _all_files() -> Iterator[Path]:
    """Yield every file of the results, of which single folders may be links to other disks."""
    if Path(RESULTS).is_dir():
        yield from sorted(child for child in Path(RESULTS).iterdir() if child.is_file())
    for folder in _folders(Path(RESULTS)):
        yield from files(folder)


def _settled(file: Path) -> bool:
    """Whether nothing was written to a file for an hour; it may be gone by now."""
    try:
        return file.stat().st_mtime <= time.time() - SETTLED
    except OSError:
        return False


def find_evictable(
    plans: Sequence[Plan], stages: Collection[str], keep: int | None
) -> list[Garbage]:
    """Return bulk of the plans that can be evicted: the workflow restores what a job needs.

    Args:
        plans: of the studies.
        stages: of `latents` and `samples`, whose bulk may go.
        keep: bytes that may remain. Files that no remaining job needs go first, then those that are
            needed last; None: all of the first kind, and no other.
    """
    artifacts = {a.fingerprint: a for plan in plans for a in plan if a.stage in stages}
    readers: dict[str, dict[str, Artifact]] = {name: {} for name in artifacts}
    for reader in (a for plan in plans for a in plan):
        for upstream in reader.upstream.values():
            if upstream.fingerprint in readers:
                readers[upstream.fingerprint][reader.path] = reader
    free: list[Garbage] = []
    needed: list[Garbage] = []
    for name, artifact in artifacts.items():
        folder, pattern = _bulk(artifact)
        count = sum(map(bytes_of, folder.glob(pattern or "*")))
        if not count:
            continue
        waiting = [reader for reader in readers[name].values() if not is_done(reader)]
        locks = tuple(state_of(user) / "lock" for user in (artifact, *waiting))
        reason = f"{artifact.stage}: {_why(waiting)}, made again on demand"
        restored = marker(Path(artifact.path))
        item = Garbage(folder, reason, count, folder / "lock", pattern, locks, restored)
        (needed if waiting else free).append(item)
    if keep is None:
        return free
    left = sum(item.bytes for item in free + needed)
    chosen = []
    for item in free + needed[::-1]:
        if left <= keep:
            break
        chosen.append(item)
        left -= item.bytes
    return chosen


def remove(garbage: Garbage) -> bool:
    """Remove the folder, or its bulk, unless a process uses it; return whether it is gone.

    Raises:
        ArtifactError: it may not be removed.
    """
    with disk_errors(garbage.path):
        return _remove(garbage)


def _remove(garbage: Garbage) -> bool:
    if any(holder(lock) for lock in garbage.users) or garbage.path.name in _being_read():
        return False
    if garbage.marker is not None:
        garbage.marker.unlink(missing_ok=True)
    if garbage.pattern:
        for file in garbage.path.glob(garbage.pattern):
            file.unlink(missing_ok=True)
        return True
    try:
        with contextlib.ExitStack() as held:
            if garbage.lock is not None:
                held.enter_context(exclusive(garbage.lock, str(garbage.path)))
            _remove_all(garbage)
    except ArtifactBusyError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EBUSY):  # another machine reads it, over NFS
            return False
        raise
    if garbage.lock is not None:
        remove_empty_parents(garbage.lock)
    remove_empty_parents(garbage.path)
    return True


def _remove_all(garbage: Garbage) -> None:
    if not garbage.path.is_dir():
        if garbage.path != garbage.lock:  # which goes when it is released
            garbage.path.unlink(missing_ok=True)
        return
    # the card goes first: an artifact that is half removed must not look finished
    (garbage.path / CARD).unlink(missing_ok=True)
    if garbage.lock is not None and garbage.lock.parent == garbage.path:
        empty(garbage.lock)
    else:
        remove_tree(garbage.path)


def _being_read() -> set[str]:
    """Return the fingerprints of what running jobs read."""
    locks = (file for file in files(Path(RESULTS, "state")) if file.name == "lock")
    return {name for lock in locks for name in read_by_holder(lock)}


def _state(path: Path) -> Path:
    """Return the folder of the lock and the checkpoints of the job that makes an artifact."""
    return Path(RESULTS, "state", *path.parts[1:])


def _artifact(path: Path) -> Path:
    """Return the folder of the artifact that a folder of it, or of its job's state, belongs to."""
    parts = path.parts[1:] if path.parts[1] != "state" else path.parts[2:]
    return Path(RESULTS, *parts)


def _bulk(artifact: Artifact) -> tuple[Path, str]:
    """Return the folder of an artifact's bulk, and a pattern where other files lie beside it."""
    pattern = STAGES[artifact.stage].bulk
    if pattern:
        return Path(artifact.path), pattern
    return cache_folder(artifact.stage, artifact.fingerprint), ""


def _why(waiting: Sequence[Artifact]) -> str:
    if not waiting:
        return "all that needs them is there"
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    return f"needed by {waiting[0].stage} {waiting[0].name}{more}"


def _folders(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(child for child in path.iterdir() if child.is_dir())


def _states() -> Iterator[Path]:
    """Yield every folder in which a job left files."""
    parents = {file.parent for file in files(Path(RESULTS, "state"))}
    folders = {path.parent if path.name == "staging" else path for path in parents}
    yield from sorted(folder for folder in folders if FINGERPRINT.fullmatch(folder.name))
