"""One writer an artifact: a lock that the operating system releases when its holder dies."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from diffusability.errors import ArtifactBusyError, ArtifactError

LONGEST_PAUSE = 5.0  # seconds between two looks at a lock that is held for hours


@contextlib.contextmanager
def exclusive(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`; it is removed when the block ends.

    Args:
        path: lock file; its folder is created.
        what: what is being protected, for the message.
        wait: seconds to wait for another holder before giving up.

    Raises:
        ArtifactBusyError: another process holds it; the message says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline, pause = time.monotonic() + wait, 0.1
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise ArtifactBusyError(
                f"{what}: {_noted(path)} is writing it. Wait for it, or stop it; "
                "the lock goes when its holder ends"
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    try:
        note = {"pid": os.getpid(), "host": socket.gethostname()}
        note |= {"job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """Return who holds the lock file `path`, for messages; None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _noted(path)
    finally:
        os.close(descriptor)
    return None


def _noted(path: Path) -> str:
    try:
        note = json.loads(path.read_text())
        job = f", job {note['job']}" if "job" in note else ""
        return f"process {note['pid']} on {note['host']}{job}"
    except (OSError, ValueError, KeyError):
        return "another process"


def check_locks(folder: Path) -> None:
    """Make sure that a lock in the folder keeps a second writer out, by trying.

    Raises:
        ArtifactError: the file system has no locks, or grants one twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".lock-test-{socket.gethostname()}-{os.getpid()}"
    trouble = "it gave one lock to two holders"
    try:
        with scratch.open("w") as first, scratch.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
    except OSError as error:
        trouble = str(error)
    finally:
        scratch.unlink(missing_ok=True)
    raise ArtifactError(
        f"{folder}: its file system cannot lock files ({trouble}), so two jobs could write one "
        f"artifact; mount it with locks (Lustre: -o flock), or make {folder} a link to a folder "
        "on one that has them"
    )


def _try_lock(path: Path) -> int | None:
    """Return a locked descriptor of the file now at `path`, or None while another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the former holder may have removed the file between our open and our lock
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
