"""The line about a run: what it says of jobs, when it is printed, and how time left is reckoned."""

import io
import logging
import math
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from diffusability.execution import run_progress
from diffusability.execution.run_progress import RunProgress, end_progress
from diffusability.execution.this_machine import START_UP
from diffusability.execution.time_left import Running, TimeLeft
from tests.unit.study_run import plan_of


def test_time_left_is_the_work_left_on_as_many_jobs_as_run_at_a_time() -> None:
    left = TimeLeft({"a": "train", "b": "train", "c": "train", "d": "draw"})
    left.estimates = {"a": 1.0, "b": 1.0, "c": 3.0}
    first, second = Running("train", "a", 0.0), Running("train", "b", 0.0)
    left.start(first)
    left.start(second)
    assert math.isnan(left.seconds([first, second], 0, 5.0, 5.0))
    left.end(first, 10.0)  # ten times as long as estimated, as the others will be
    # b is due, so a tenth more; c takes 30 s; d, of which nothing is known, as long as the mean;
    # two run at a time
    assert left.seconds([second], 0, 10.0, 10.0) == pytest.approx((1.0 + 30.0 + 10.0) / 2)
    assert left.seconds([second], 2, 10.0, 10.0) == pytest.approx((1.0 + 30.0 + 30.0) / 2)


def test_time_left_is_at_least_that_of_the_longest_job() -> None:
    left = TimeLeft({"a": "train", "b": "train"})
    left.estimates = {"a": 1.0, "b": 8.0}
    first, second = Running("train", "a", 0.0), Running("train", "b", 0.0)
    for job in (first, second):
        left.start(job)
    left.end(first, 2.0)
    assert left.seconds([second], 0, 2.0, 2.0) == pytest.approx(14.0)


@pytest.mark.parametrize(("gpus", "within"), [([], 60.0), (["0"], 1.0)])
def test_estimates_are_of_the_machine_that_runs_the_jobs(
    gpus: list[str], within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU networks are counted at this machine's speed, as metrics on cores are."""
    given: list[Any] = []
    monkeypatch.setattr(run_progress, "machine_gpus", lambda _: gpus)
    monkeypatch.setattr(run_progress, "RunProgress", lambda *a: given.append(a[-1]) or Mock())
    for name, value in (("progress_printer", 1), ("executor", "local"), ("outputs_to_make", {})):
        monkeypatch.setattr(run_progress.snakemake_adapter, name, lambda *_, v=value: v)
    plan = plan_of({})
    run_progress.show_progress(None, logging.getLogger(), plan)
    seconds = given[0]()
    trainings = [seconds[artifact.card] for artifact in plan.of_stage("diffusion")]
    assert (min(trainings) > START_UP) == (not gpus)
    assert 0 < max(trainings) < within


class Run:
    """A logger with the handlers that Snakemake's has, and messages as Snakemake sends them."""

    def __init__(self, stream: io.StringIO, jobs: dict[str, str]) -> None:
        self.logger = logging.Logger("run")
        self.printer = logging.StreamHandler(stream)
        self.stream = stream
        self.logger.addHandler(self.printer)
        names = {"card": "conv-base/s0"}
        self.progress = RunProgress(self.printer, jobs, names, lambda: {})
        self.progress.start(self.logger)

    def send(self, event: str, text: str = "text", **fields: Any) -> None:
        self.logger.info(text, extra={"event": SimpleNamespace(name=event), **fields})

    def end(self) -> str:
        end_progress(self.logger)
        return self.stream.getvalue()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print lines without waiting for a minute."""
    for name in ("FIRST", "PERIOD", "REDRAWN"):
        monkeypatch.setattr(run_progress, name, 0.01)


JOBS = {"card": "train_tokenizer", "x": "sample", "y": "sample"}


def test_a_log_gets_lines_instead_of_messages_about_jobs(at_once: None) -> None:
    run = Run(io.StringIO(), JOBS)
    run.send("JOB_STARTED", "Execute 3 jobs...")
    for number, (output, rule) in enumerate(JOBS.items()):
        run.send("JOB_INFO", "a block", jobid=number, rule_name=rule, output=[output])
    time.sleep(0.1)
    run.logger.info("Select jobs to execute...")
    run.logger.warning("a warning")
    run.send("JOB_FINISHED", job_id=0)
    run.send("JOB_ERROR", "a failure", jobid=1, log=["x.log"])
    run.send("PROGRESS", done=1, total=40)  # of the whole workflow, also what is not to be run
    said = run.end()
    assert " 0 of 3 jobs, 0 s gone: 2 sample, train_tokenizer conv-base/s0\n" in said
    assert said.endswith(" 1 of 3 jobs, 0 s gone, about 0 s left: sample\n")
    lines = {line for line in said.splitlines() if not line[0].isdigit()}
    assert lines == {"a warning", "a failure"}
    assert " failed: sample, log x.log\n" in said
    run.send("PROGRESS", "Snakemake's own", done=2, total=3)
    assert run.stream.getvalue() == said + "Snakemake's own\n"  # as before, once it has ended


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_makes_room_for_messages(at_once: None) -> None:
    run = Run(Terminal(), JOBS)
    run.send("JOB_INFO", jobid=0, rule_name="sample", output=["x"])
    run.send("JOB_FINISHED", job_id=1)
    time.sleep(0.1)
    run.logger.warning("a warning")
    said = run.end()
    assert "1 of 3 jobs |######" in said.replace("█", "#")
    assert "0 s gone: sample" in said
    before, _, _ = said.partition("a warning")
    assert before.endswith("\r")  # over the bar
    assert said.splitlines()[-1].endswith(" 1 of 3 jobs, 0 s gone: sample")


def test_jobs_that_are_added_later_are_counted() -> None:
    run = Run(io.StringIO(), JOBS)
    for number, size in enumerate((40, 42)):
        run.send("JOB_FINISHED", job_id=number)
        run.send("PROGRESS", done=number + 1, total=size)
    assert " 2 of 5 jobs, " in run.end()


def test_rules_beyond_three_are_counted() -> None:
    run = Run(io.StringIO(), {})
    for number, rule in enumerate("abcde"):
        run.send("JOB_INFO", jobid=number, rule_name=rule, output=[])
    assert run.end().endswith("a, b, c, 2 other rules\n")
