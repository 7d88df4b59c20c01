"""Progress of an unfinished job, in a small file in its state folder."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from diffusability.artifacts.atomic import write_json

FILE = "progress.json"
State = Literal["running", "waiting", "interrupted", "failed"]


@dataclass(frozen=True)
class Progress:
    """Progress of a job, as last written.

    Attributes:
        state: of the job; for a killed job, its state when it was killed.
        step: steps done. steps: total; None for jobs without steps.
        loss: name and value of the last loss, or empty.
        left: estimated remaining seconds at the time of writing.
        waits_for: what it waits for, in words.
        written: time of writing, in seconds since 1970.
    """

    state: State
    step: int = 0
    steps: int | None = None
    loss: str = ""
    left: float | None = None
    waits_for: str = ""
    written: float = field(default_factory=time.time)


def write_progress(state: Path, progress: Progress) -> None:
    """Write the file in a job's state folder, atomically."""
    write_json(state / FILE, asdict(progress))


def read_progress(state: Path) -> Progress | None:
    """Return the last progress in a state folder, or None."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Progress(**json.loads((state / FILE).read_text()))
    return None


def end_progress(state: Path, how: State) -> None:
    """Record that a job ended without a result, keeping its step.

    Args:
        state: its state folder. how: `interrupted` or `failed`.
    """
    last = read_progress(state) or Progress(how)
    write_progress(state, Progress(how, last.step, last.steps, last.loss))
