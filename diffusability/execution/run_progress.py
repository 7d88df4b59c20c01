"""One line that says what runs, how many of how many jobs are done, time gone and time left.

It stands in the place of Snakemake's messages about single jobs: on a terminal as a bar, in a log
as a line per minute. Snakemake's own log file keeps all messages.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from tqdm import tqdm

from diffusability.artifacts.status import duration
from diffusability.errors import DiffusabilityError
from diffusability.execution import snakemake_adapter
from diffusability.execution.estimates import Estimates
from diffusability.execution.gpus import machine_gpus
from diffusability.execution.this_machine import measure
from diffusability.execution.time_left import Running, TimeLeft
from diffusability.study.planning.plan import Plan

REPLACED = {"JOB_INFO", "JOB_STARTED", "JOB_FINISHED", "GROUP_INFO", "PROGRESS"}
FIRST, PERIOD, REDRAWN = 5.0, 60.0, 0.5  # seconds: to a log's first line, between lines, of a bar
SHOWN = 3  # kinds of running jobs


class RunProgress(logging.Handler):
    """Reads Snakemake's messages about jobs and prints a line instead of them."""

    def __init__(
        self,
        printer: logging.StreamHandler[Any],
        jobs: Mapping[str, str],
        names: Mapping[str, str],
        estimate: Callable[[], Mapping[str, float]],
    ) -> None:
        """Take what is to run.

        Args:
            printer: handler that prints Snakemake's messages.
            jobs: rule of every job, by its first output.
            names: what to call a job beside its rule, by its first output.
            estimate: returns estimated seconds by first output; called in another thread.
        """
        super().__init__()
        self.printer, self.names, self.estimate = printer, names, estimate
        self.total = len(jobs)
        self.done: set[int] = set()  # numbers of jobs
        self.begun = time.monotonic()
        self.running: dict[int, Running] = {}  # by Snakemake's number of the job
        self.left = TimeLeft(jobs)
        self._size = 0  # jobs of the workflow, also those not to be run; 0 before it is known
        self._ended = threading.Event()
        self._bar = None
        if printer.stream.isatty():
            form = "{n_fmt} of {total_fmt} jobs |{bar:20}| {desc}"
            self._bar = tqdm(
                total=self.total, file=printer.stream, bar_format=form, dynamic_ncols=True
            )

    def start(self, logger: logging.Logger) -> None:
        """Print from now on."""
        logger.addHandler(self)
        self.printer.addFilter(self._passes)
        threading.Thread(target=self._tick, daemon=True).start()

    def end(self, logger: logging.Logger) -> None:
        """Print for the last time."""
        self._ended.set()
        logger.removeHandler(self)
        self.printer.removeFilter(self._passes)
        if self._bar is not None:
            self._bar.leave = False
            self._bar.close()
        self._print(self.text())

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of a message about a job."""
        now = time.monotonic()
        match snakemake_adapter.event(record):
            case "JOB_INFO":
                job = Running(record.rule_name, next(iter(record.output), ""), now)  # type: ignore[attr-defined]
                self.running[record.jobid] = job  # type: ignore[attr-defined]
                self.left.start(job)
            case "JOB_FINISHED":
                self.done.add(record.job_id)  # type: ignore[attr-defined]
                if ended := self.running.pop(record.job_id, None):  # type: ignore[attr-defined]
                    self.left.end(ended, now)
            case "JOB_ERROR":
                if failed := self.running.pop(record.jobid, None):  # type: ignore[attr-defined]
                    name = f"{failed.rule} {self.names.get(failed.output, '')}".strip()
                    self._print(f"failed: {name}, log {' '.join(record.log)}")  # type: ignore[attr-defined]
            case "PROGRESS":
                size = int(record.total)  # type: ignore[attr-defined]
                self.total += size - self._size if self._size else 0  # jobs that restore files
                self._size = size

    def text(self) -> str:
        """Return the line of a log."""
        return f"{len(self.done)} of {self.total} jobs, {self._times()}{self._what()}"

    def _times(self) -> str:
        now = time.monotonic()
        gone = now - self.begun
        running = list(self.running.values())
        unnamed = max(0, self.total - len(self.done) - len(running) - len(self.left.waiting))
        left = self.left.seconds(running, unnamed, gone, now)
        rest = len(self.done) < self.total and not math.isnan(left)
        return f"{duration(gone)} gone" + (f", about {duration(left)} left" if rest else "")

    def _what(self) -> str:
        """Return what runs, jobs of one rule together."""
        jobs = sorted(self.running.values(), key=lambda job: job.rule)
        kinds = []
        for rule, group in groupby(jobs, key=lambda job: job.rule):
            of_rule = list(group)
            name = self.names.get(of_rule[0].output, "") if len(of_rule) == 1 else ""
            kinds.append(" ".join([str(len(of_rule)) * (len(of_rule) > 1), rule, name]).strip())
        more = [f"{len(kinds) - SHOWN} other rules"] if len(kinds) > SHOWN else []
        return ": " + ", ".join(kinds[:SHOWN] + more) if kinds else ""

    def _tick(self) -> None:
        """Print now and then, until the end."""
        try:
            self.left.estimates = self.estimate()
        except (DiffusabilityError, OSError):
            self.left.estimates = {}  # a damaged card: the run itself will say so
        wait = REDRAWN if self._bar is not None else FIRST
        while not self._ended.wait(wait):
            self.acquire()  # no message is taken note of meanwhile
            try:
                if self._bar is not None:
                    self._bar.n, self._bar.total = len(self.done), self.total
                    self._bar.set_description_str(self._times() + self._what())
                else:
                    wait = PERIOD
                    self._print(self.text())
            finally:
                self.release()

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        self.printer.stream.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self.printer.flush()

    def _passes(self, record: logging.LogRecord) -> bool:
        """Whether a message is printed; it takes the place of the bar."""
        if snakemake_adapter.event(record) in REPLACED or snakemake_adapter.is_idle(record):
            return False
        if self._bar is not None:
            self._bar.clear()
        return True


def show_progress(workflow: Any, logger: logging.Logger, plan: Plan) -> None:
    """Print a line about the run from now on, unless the command line asks for other output."""
    printer = snakemake_adapter.progress_printer(workflow, logger)
    if printer is None:
        return
    names = {artifact.card: artifact.name for artifact in plan}
    local = snakemake_adapter.executor(workflow) == "local"

    def estimate() -> dict[str, float]:
        on_cores = local and not machine_gpus(os.environ)
        tasks = Estimates(plan, here=measure() if on_cores else None).tasks()
        return {artifact.card: task.seconds for artifact, task in tasks.items()}

    jobs = snakemake_adapter.outputs_to_make(workflow)
    RunProgress(printer, jobs, names, estimate).start(logger)


def end_progress(logger: logging.Logger) -> None:
    """Print the line for the last time."""
    for handler in list(logger.handlers):
        if isinstance(handler, RunProgress):
            handler.end(logger)
