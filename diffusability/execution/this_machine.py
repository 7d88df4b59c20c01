"""How fast this machine is where it has no GPU: one matrix product, and the start-up of a job."""

import os
import time
from dataclasses import dataclass

SIDE = 1024  # of the matrices
ROUNDS = 3  # the fastest counts
START_UP = 2.0  # seconds of CPU until a job computes: see benchmarks/RESULTS.md


@dataclass(frozen=True)
class ThisMachine:
    """The speed of a machine without a GPU.

    Attributes:
        rate: float32 operations per second of a matrix product on all cores.
        cores: CPU cores.
    """

    rate: float
    cores: int

    def seconds(self, macs: int | None) -> float:
        """Return the seconds of a job with so many multiply-accumulates, start-up included."""
        return START_UP + 2 * (macs or 0) / self.rate


def available_cores() -> int:
    """Return how many cores this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure() -> ThisMachine:
    """Time matrix products; this takes about a tenth of a second."""
    import numpy  # imported here: no other plan needs it

    matrix = numpy.ones((SIDE, SIDE), numpy.float32)
    fastest = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        matrix @ matrix
        fastest = min(fastest, time.perf_counter() - start)
    return ThisMachine(2 * SIDE**3 / fastest, available_cores())
