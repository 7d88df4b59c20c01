"""Status of a study: running jobs with their progress, and jobs that ended without a result."""

import json
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusability.artifacts.inventory import state_of
from diffusability.artifacts.lock import holder
from diffusability.artifacts.progress import Progress, read_progress
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import RESULTS, STAGES

CHECKPOINT = "checkpoint.safetensors"
LOG_TAIL = 65_536  # bytes
SHOWN_LINES = 5  # lines of the log of a failed job
WIDTH = 80
ENDINGS = ("waiting", "interrupted", "failed")
NOT_A_LOSS = ("step", "learning_rate")
HEADINGS = {
    "running": "running",
    "waiting": "waiting for a GPU",
    "interrupted": "interrupted; the next run resumes",
    "failed": "failed",
}


@dataclass(frozen=True)
class Step:
    """Progress of a job.

    Attributes:
        step: steps done.
        steps: total; None if unknown.
        loss: name and value of the last loss, or empty.
        left: remaining seconds as last written by the job; None if it wrote nothing.
    """

    step: int
    steps: int | None
    loss: str = ""
    left: float | None = None

    def __str__(self) -> str:
        """Return the progress as text."""
        whole = f" of {self.steps} ({self.step / self.steps:.0%})" if self.steps else ""
        parts = [f"step {self.step}{whole}", self.loss]
        parts += [f"{duration(self.left)} left"] if self.left is not None else []
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Activity:
    """A job that was started and is not done.

    Attributes:
        artifact: the artifact it makes.
        kind: a key of HEADINGS.
        step: its progress, if known.
        who: the process or job that runs it.
        log: its log file, if there is one.
        lines: last lines of the log.
    """

    artifact: Artifact
    kind: str
    step: Step | None
    who: str
    log: Path | None
    lines: tuple[str, ...]


def status_text(plan: Plan) -> str:
    """Return running jobs with their progress, and failed jobs with the end of their logs."""
    found = list(activities(plan))
    done = sum(Path(artifact.card).exists() for artifact in plan)
    counts = {kind: sum(a.kind == kind for a in found) for kind in HEADINGS}
    said = "".join(f", {count} {kind}" for kind, count in counts.items() if count)
    lines = [f"{done} of {len(plan)} artifacts are done{said or '; nothing runs'}"]
    for kind, heading in HEADINGS.items():
        chosen = [activity for activity in found if activity.kind == kind]
        lines += ["", heading] if chosen else []
        for activity in chosen:
            lines += _describe(activity)
    return "\n".join(lines)


def activities(plan: Plan) -> Iterator[Activity]:
    """Yield the jobs of the plan that were begun and are not done, in the plan's order.

    Those that restore evicted files are among them while they run.
    """
    logs = _logs()
    for artifact in plan:
        state = state_of(artifact)
        log = logs.get(artifact.fingerprint)
        if not (log or state.exists()):
            continue
        who = holder(state / "lock")
        running = who is not None
        if Path(artifact.card).exists() and not running:
            continue
        lines = _tail(log)
        progress = read_progress(state)
        if not (running or lines or progress or (state / CHECKPOINT).exists()):
            continue  # it has just started
        kind = "running" if running else _ending(progress, state)
        step = _step(artifact, state, progress, running)
        yield Activity(artifact, kind, step, who or "", log, tuple(lines[-SHOWN_LINES:]))


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes, hours or days."""
    for size, unit in ((172_800, "days"), (7200, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.0f} s"


def wrapped(text: str, indent: str) -> list[str]:
    """Return text in lines of at most WIDTH columns, all indented; a long path stays whole."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _describe(activity: Activity) -> list[str]:
    lines = [f"  {activity.artifact.stage} {activity.artifact.name}"]
    about = "; ".join(str(part) for part in (activity.step, activity.who) if part)
    lines += wrapped(about, "    ")
    if activity.kind == "failed":
        lines += [f"    {activity.log}"] if activity.log else []
        for line in activity.lines:
            lines += wrapped(line, "    | ")
    return lines


def _logs() -> dict[str, Path]:
    """Return the log file of every artifact's job, by fingerprint."""
    rules = {entry.rule for entry in STAGES.values()}
    files = (file for rule in rules for file in Path(RESULTS, "logs", rule).glob("*.log"))
    return {file.name.split(".")[-2]: file for file in files}


def _tail(log: Path | None) -> list[str]:
    """Return the last lines of a log; none without one."""
    try:
        return [] if log is None else last_lines(log)
    except FileNotFoundError:
        return []


def last_lines(log: Path) -> list[str]:
    """Return the lines in the last ``LOG_TAIL`` bytes of a log, without empty ones."""
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - LOG_TAIL))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _ending(progress: Progress | None, state: Path) -> str:
    """Return how a job that no longer runs has ended."""
    said = progress.state if progress else "running"
    # killed between checkpoints: it resumes like an interrupted job
    killed = said == "running" and (state / CHECKPOINT).exists()
    return "interrupted" if killed else said if said in ENDINGS else "failed"


def _step(artifact: Artifact, state: Path, progress: Progress | None, running: bool) -> Step | None:
    """Return the later step of the job's progress file and its checkpoint."""
    found = _checkpoint_step(artifact, state / CHECKPOINT)
    if progress is None or not progress.step or (found and found.step > progress.step):
        return found
    left = None
    if running and progress.left is not None:
        left = max(0.0, progress.left - (time.time() - progress.written))
    return Step(progress.step, progress.steps, progress.loss, left)


def _checkpoint_step(artifact: Artifact, path: Path) -> Step | None:
    """Read step and last loss from the header of a checkpoint, without its weights."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            metadata: dict[str, Any] = json.loads(file.read(size))["__metadata__"]
        history = json.loads(metadata["values"])["history"]
        step = int(metadata["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        return None  # none yet, or damaged; the job itself uses the previous one
    row = history[-1] if history else {}
    losses = [f"{name} {value:.4g}" for name, value in row.items() if name not in NOT_A_LOSS]
    return Step(step, artifact.spec.get("train", {}).get("steps"), losses[0] if losses else "")
