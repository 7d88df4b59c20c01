"""What a killed Snakemake leaves in the folder: its lock, and its marks of unfinished files.

A mark makes Snakemake run the job of that file again. It then takes everything that depends on the
job for up to date, as what an artifact is made from never changes (`ancient`), even if it is not
there. So the next run would make the marked artifacts, stop, and report success.
"""

import base64
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from diffusability.study.planning.stages import RESULTS, STAGES

FOLDER = Path(".snakemake")
_held: list[int] = []  # descriptors: the operating system releases the lock with the process
OWN = (*STAGES, "tables", "figures")


def remove_stale_lock() -> bool:
    """Remove the lock of a Snakemake that is dead; return whether there was one.

    Every process that reads the rules holds a lock of the operating system on one file, which ends
    with the process. Who gets that lock alone knows that no other is at work in this folder.
    Snakemake's own lock files stay when it is killed. They are removed only if they lock results of
    this workflow, in case an unrelated Snakefile is run in the same folder.

    Marks of unfinished artifacts are removed, too. An artifact is published as a whole, its card
    last: one without a card is missing, whatever else is there.
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
        for mark in _marks():
            mark.unlink(missing_ok=True)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return bool(stale)
    except OSError:  # read-only, or without locks: Snakemake itself says so
        return False


def _marks() -> Iterator[Path]:
    """Yield Snakemake's marks of unfinished artifacts; those of tables and figures stay."""
    for mark in (FOLDER / "incomplete").rglob("*"):
        coded = "".join(part.removeprefix("@") for part in mark.relative_to(FOLDER).parts[1:])
        try:
            marked = Path(base64.urlsafe_b64decode(coded).decode()).parts
        except ValueError:
            continue  # a folder, or no mark
        if mark.is_file() and marked[:1] == (RESULTS,) and marked[1:2] and marked[1] in STAGES:
            yield mark


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
