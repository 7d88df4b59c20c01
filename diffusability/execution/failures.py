"""What a run says at its end of the jobs that failed: the sentence of each, and its log."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffusability.artifacts.status import last_lines
from diffusability.study.core.commands import diffusability_command, snakemake_command
from diffusability.study.planning.stages import RESULTS

FULL = 2**20  # bytes; with less left a log cannot be written
LINES = 8  # shown per job
JOBS = 10  # shown


def failure_report(jobs: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return what to print of failed jobs, each a rule and its log files."""
    failed = sorted((rule, log) for rule, logs in jobs for log in logs)
    if not failed:
        return f"The run ended early, but no job failed. To go on: {snakemake_command('-c1')}"
    lines = [f"{len(failed)} jobs failed:" if len(failed) != 1 else "1 job failed:"]
    for rule, log in failed[:JOBS]:
        lines += [f"  {rule}, log {log}", *(f"    {line}" for line in _last_words(Path(log)))]
    lines += [f"  ... and {len(failed) - JOBS} more"] if len(failed) > JOBS else []
    free = shutil.disk_usage(RESULTS if Path(RESULTS).exists() else ".").free
    if free < FULL:
        lines.append(
            f"{RESULTS}: the disk is full, so logs may be empty; free some space "
            f"(`{diffusability_command('gc')}` lists what can be removed) and run again"
        )
    return "\n".join([*lines, f"More: {diffusability_command('status')}"])


def _last_words(log: Path) -> list[str]:
    """Return the message that ended a job: from its last `error`, or its last line."""
    try:
        lines = last_lines(log)
    except OSError:
        return ["it left no log"]
    if not lines:
        return ["its log is empty"]
    said = [index for index, line in enumerate(lines) if line.startswith("error")]
    return lines[said[-1] :][:LINES] if said else lines[-1:]
