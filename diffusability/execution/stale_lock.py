"""Snakemake's lock of the folder, where the Snakemake that took it was killed."""

import contextlib
import fcntl
import os
from pathlib import Path

from diffusability.study.stages import RESULTS, STAGES

FOLDER = Path(".snakemake")
_held: list[int] = []  # descriptors: the operating system releases the lock with the process
OWN = (*STAGES, "tables", "figures")


def remove_stale_lock() -> bool:
    """Remove the lock of a Snakemake that is dead; return whether there was one.

    Every process that reads the rules holds a lock of the operating system on one file, which ends
    with the process. Who gets that lock alone knows that no other is at work in this folder.
    Snakemake's own lock files stay when it is killed. They are removed only if they lock results of
    this workflow, in case an unrelated Snakefile is run in the same folder.
    """
    try:
        FOLDER.mkdir(exist_ok=True)
        descriptor = os.open(FOLDER / "diffusability.lock", os.O_RDWR | os.O_CREAT, 0o666)
        _held.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            return False
        stale = [lock for lock in (FOLDER / "locks").glob("*.lock") if _is_own(lock)]
        for lock in stale:
            lock.unlink(missing_ok=True)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return bool(stale)
    except OSError:  # read-only, or without locks: Snakemake itself says so
        return False


def _is_own(lock: Path) -> bool:
    """Whether the locked outputs are results of this workflow; those of its inputs are not read."""
    if lock.name.endswith(".input.lock"):
        lock = lock.with_name(lock.name.replace(".input.", ".output."))
    with contextlib.suppress(OSError):
        names = [Path(line).parts for line in lock.read_text().splitlines()]
        return all(
            parts[:1] == (RESULTS,) and (parts[1] in OWN or parts[1].endswith(".html"))
            for parts in names
            if len(parts) > 1
        )
    return True  # locked inputs alone
