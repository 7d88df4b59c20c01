"""Processor time of a command with everything that it starts, also what outlives its parent."""

import ctypes
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SET_CHILD_SUBREAPER = 36  # of Linux's prctl: orphans below become children of this process


def processor_time(
    command: Sequence[str], log: Path, folder: Path | None = None
) -> tuple[float, float]:
    """Run a command and return its wall seconds and processor seconds (user and system).

    The processes of a fork server are no children of the command that waits for them, so they are
    counted here, by a process of its own that waits for all of them.

    Raises:
        RuntimeError: the command failed; the log has its output.
    """
    arguments = [sys.executable, __file__, str(log), *command]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: failed, see {log}")
    wall, used = done.stdout.split()
    return float(wall), float(used)


def _count(log: str, command: list[str]) -> int:
    """Run the command, wait for everything below, print both times, and return its status."""
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    begun = time.perf_counter()
    with open(log, "w") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    wall = time.perf_counter() - begun
    try:
        while True:
            os.wait()
    except ChildProcessError:  # all have ended
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(wall, used.ru_utime + used.ru_stime)
    return status


if __name__ == "__main__":
    sys.exit(_count(sys.argv[1], sys.argv[2:]))
