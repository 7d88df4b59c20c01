"""One writer per artifact: a file lock that the operating system releases when its holder ends."""

import contextlib
import errno
import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffusability.artifacts.atomic import disk_errors, remove_tree
from diffusability.errors import ArtifactBusyError, ArtifactError

LONGEST_PAUSE = 1.0  # longest interval in seconds between attempts to take a lock


@contextlib.contextmanager
def exclusive(
    path: Path, what: str, wait: float = 0.0, reads: Collection[str] = ()
) -> Iterator[None]:
    """Hold the lock file `path`; it is removed when the block ends, and its folder if empty.

    Args:
        path: lock file; its folder is created.
        what: the protected object, for the message.
        wait: seconds to wait for another holder before giving up; may be infinite.
        reads: fingerprints of the artifacts that the holder reads; see `read_by_holder`.

    Raises:
        ArtifactBusyError: another process holds it; the message says which.
    """
    held: list[os.stat_result] = []

    def note(descriptor: int) -> None:
        held.append(os.fstat(descriptor))
        text: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname()}
        text |= {"job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {}
        text |= {"reads": sorted(reads)} if reads else {}
        with contextlib.suppress(OSError):  # on a full disk the lock holds without the note
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(text).encode(), 0)

    lock = FileLock(path, poll_interval=min(LONGEST_PAUSE, max(0.1, wait / 50)), on_acquired=note)
    try:
        with disk_errors(path):
            _acquire(lock, path, wait)
    except Timeout:
        raise ArtifactBusyError(
            f"{what}: {_noted(path)} is writing it. Wait for it, or stop it; "
            "the lock is released when its holder ends"
        ) from None
    try:
        yield
    finally:
        # `path` may belong to another process by now: the block may have removed our file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(held[-1], path.stat()):
                path.unlink()
        lock.release()
        with contextlib.suppress(OSError):  # not empty, or gone
            path.parent.rmdir()


def _acquire(lock: FileLock, path: Path, wait: float) -> None:
    """Take the lock; recreate its folder if the last holder removed it."""
    deadline = time.monotonic() + wait
    while True:
        left = deadline - time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if math.isinf(left) else max(0.0, left))
        except FileNotFoundError:
            continue
        return


def holder(path: Path) -> str | None:
    """Return who holds the lock file `path`, for messages; None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except PermissionError:  # of another user; a free lock is removed
        return "another process"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _noted(path)
    finally:
        os.close(descriptor)
    return None


def read_by_holder(path: Path) -> list[str]:
    """Return the fingerprints that the holder of the lock file `path` reads; none if it is free."""
    if holder(path) is None:
        return []
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return [str(name) for name in json.loads(path.read_text()).get("reads", [])]
    return []


def empty(lock: Path) -> None:
    """Remove everything in the lock's folder except the lock, which is held."""
    for entry in lock.parent.iterdir():
        if entry == lock:
            continue
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink(missing_ok=True)


def _noted(path: Path) -> str:
    try:
        note = json.loads(path.read_text())
        job = f", job {note['job']}" if "job" in note else ""
        return f"process {note['pid']} on {note['host']}{job}"
    except (OSError, ValueError, KeyError):
        return "another process"


def check_locks(folder: Path) -> None:
    """Test that a lock in the folder excludes a second writer.

    Raises:
        ArtifactError: the file system does not support locks, or grants one twice.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ArtifactError(
            f"{folder}: cannot be written; check who owns it and whether its file system is "
            f"mounted read-only, or make {folder} a link to a folder that can be written"
        )
    scratch = folder / f".lock-test-{socket.gethostname()}-{os.getpid()}"
    trouble = "it granted one lock twice"
    try:
        with scratch.open("w") as first, scratch.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            with disk_errors(scratch):
                raise
        trouble = str(error)
    finally:
        scratch.unlink(missing_ok=True)
    raise ArtifactError(
        f"{folder}: its file system cannot lock files ({trouble}), so two jobs could write one "
        f"artifact; mount it with locks (Lustre: -o flock), or make {folder} a link to a folder "
        "on a file system that supports them"
    )
