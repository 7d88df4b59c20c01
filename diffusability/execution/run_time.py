"""What a job may use of a cluster: minutes from counted operations, more at every attempt."""

import math

from diffusability.study.core.spec import CHECKPOINT_SECONDS, TIME_BUDGET
from diffusability.study.planning.plan import Artifact

MARGIN = 2.0  # of counted time: data, start-up, and a GPU slower than the assumed one
DAY = 24 * 60  # longest job in minutes, unless more was counted; trainings are cut in such jobs
MEMORY_GROWTH = 2  # more may be more than a node has, and such a job would wait forever
STEP = 10  # minutes that a counted time is rounded up to


def more_memory(megabytes: int, attempt: int) -> int:
    """Return the memory of the `attempt`-th try of a job: as stated, then twice as much."""
    return megabytes * min(attempt, MEMORY_GROWTH)


def more_minutes(minutes: int, attempt: int) -> int:
    """Return the minutes of the `attempt`-th try of a job: once, twice, ..., up to a day."""
    return max(minutes, min(minutes * attempt, DAY))


def run_minutes(artifact: Artifact, seconds: float | None, least: int, attempt: int) -> int:
    """Return the minutes that one job may take to make an artifact.

    Args:
        artifact: what is made. seconds: its counted time on one GPU, None where none is counted.
        least: minutes of the smallest study. attempt: 1 for the first.

    Returns:
        At least `least`. A training is cut in jobs of a day that go on from each other; anything
        else starts again, and gets more time with every attempt.
    """
    gpus = int(artifact.local.get("gpus", 1))
    counted = MARGIN * (seconds or 0.0) / 60 / gpus
    wanted = max(least, STEP * math.ceil(counted / STEP))
    return min(wanted, DAY) if is_resumed(artifact) else more_minutes(wanted, attempt)


def is_resumed(artifact: Artifact) -> bool:
    """Whether a job that makes the artifact goes on where the last one was stopped."""
    return "train" in artifact.spec


def shortest_minutes() -> int:
    """Return the least minutes of a training job in which it keeps a checkpoint for certain."""
    return math.ceil(CHECKPOINT_SECONDS / 60 / TIME_BUDGET)
