"""How long a job may run and how much memory it gets, attempt by attempt."""

import pytest

from diffusability.execution.run_time import (
    more_memory,
    more_minutes,
    run_minutes,
    shortest_minutes,
)
from diffusability.study.planning.plan import Artifact

TRAINING = Artifact("diffusion", {}, {"train": {}}, 0, {})
SHARED = Artifact("diffusion", {}, {"train": {}}, 0, {}, {"gpus": 8})
SAMPLING = Artifact("samples", {}, {}, 0, {})
HOUR = 3600.0


def test_memory_doubles_once() -> None:
    assert [more_memory(100, attempt) for attempt in (1, 2, 3, 12)] == [100, 200, 200, 200]


def test_time_grows_to_a_day() -> None:
    assert [more_minutes(500, attempt) for attempt in (1, 2, 3, 12)] == [500, 1000, 1440, 1440]
    assert [more_minutes(2000, attempt) for attempt in (1, 2)] == [2000, 2000]


@pytest.mark.parametrize(
    ("artifact", "seconds", "attempt", "minutes"),
    [
        (SAMPLING, None, 1, 60),  # nothing counted: the least
        (SAMPLING, None, 2, 120),
        (SAMPLING, 60.0, 1, 60),
        (SAMPLING, 2 * HOUR, 1, 240),  # twice what was counted
        (SAMPLING, 2 * HOUR + 1, 1, 250),  # in steps of ten minutes
        (SAMPLING, 2 * HOUR, 3, 720),
        (TRAINING, 2 * HOUR, 3, 240),  # goes on from its checkpoint: no longer at a retry
        (TRAINING, 100 * HOUR, 1, 1440),  # never more than a day
        (SHARED, 40 * HOUR, 1, 600),  # by eight GPUs
    ],
)
def test_minutes(artifact: Artifact, seconds: float | None, attempt: int, minutes: int) -> None:
    assert run_minutes(artifact, seconds, least=60, attempt=attempt) == minutes


def test_shortest_training_reaches_a_checkpoint() -> None:
    # a checkpoint every 300 s, and nine tenths of the minutes before the training stops itself
    assert 0.9 * 60 * shortest_minutes() >= 300 > 0.9 * 60 * (shortest_minutes() - 1)
