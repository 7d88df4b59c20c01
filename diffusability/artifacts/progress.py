"""What a job says of itself while it is not done: a small file in its state folder."""

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
    """How far a job is, as it last wrote.

    Attributes:
        state: a job that was killed left what it was when it was killed.
        step: reached. steps: in all; None where the job has none.
        loss: name and value of the last one, or nothing.
        left: seconds until the end, at the time of writing.
        waits_for: what it waits for, in words.
        written: seconds since 1970.
    """

    state: State
    step: int = 0
    steps: int | None = None
    loss: str = ""
    left: float | None = None
    waits_for: str = ""
    written: float = field(default_factory=time.time)


def write_progress(state: Path, progress: Progress) -> None:
    """Write the file in a job's state folder, whole or not at all."""
    write_json(state / FILE, asdict(progress))


def read_progress(state: Path) -> Progress | None:
    """Return what the job of a state folder last wrote, or None."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Progress(**json.loads((state / FILE).read_text()))
    return None


def end_progress(state: Path, how: State) -> None:
    """Note that a job ended without a result, keeping how far it was.

    Args:
        state: its state folder. how: `interrupted` or `failed`.
    """
    last = read_progress(state) or Progress(how)
    write_progress(state, Progress(how, last.step, last.steps, last.loss))
