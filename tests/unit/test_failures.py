"""What a run says of failed jobs, and which lock of a killed Snakemake it removes."""

import base64
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from diffusability.execution.failures import failure_report
from diffusability.execution.stale_lock import remove_stale_lock
from diffusability.study.core.commands import VARIABLE

Usage = namedtuple("Usage", "free")


def write_log(name: str, text: str) -> str:
    log = Path("results/logs", name)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    return str(log)


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what an earlier test said is run: messages print its command."""
    monkeypatch.delenv(VARIABLE, raising=False)


def test_every_failed_job_shows_its_sentence_and_its_log(workplace: Path) -> None:
    log = write_log("a.log", "starting\nerror: old\nmore\nerror: 2 damaged files:\n  x.png\n")
    other = write_log("b.log", "Traceback\n  in f\nKeyError: 3\n")
    said = failure_report([("sample", [other]), ("prepare_dataset", [log])])
    assert said.splitlines() == [
        "2 jobs failed:",
        f"  prepare_dataset, log {log}",
        "    error: 2 damaged files:",
        "      x.png",
        f"  sample, log {other}",
        "    KeyError: 3",
        "More: diffusability status",
    ]


def test_a_run_that_was_interrupted_says_how_to_go_on(workplace: Path) -> None:
    assert failure_report([]).endswith("no job failed. To go on: snakemake -c1")


def test_an_empty_log_on_a_full_disk_is_explained(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log("a.log", "")
    assert "its log is empty" in failure_report([("sample", [log])])
    assert "it left no log" in failure_report([("sample", ["results/none.log"])])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free=0))
    assert "results: the disk is full" in failure_report([("sample", [log])])


def write_lock(*outputs: str) -> None:
    locks = Path(".snakemake/locks")
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.input.lock").write_text("results/encoder/a/provenance.json\n")
    (locks / "0.output.lock").write_text("".join(f"{name}\n" for name in outputs))


OWN = ("results/tables/smoke/claims.csv", "results/report.html", "results/encoder/a/b/x.json")
# a process that reads the rules, as Snakemake does, and lives until its input is closed
OTHER = (
    "import sys\n"
    "from diffusability.execution.stale_lock import remove_stale_lock\n"
    "print(remove_stale_lock(), flush=True)\n"
    "sys.stdin.read()\n"
)


def test_the_lock_of_a_dead_snakemake_goes(workplace: Path) -> None:
    assert not remove_stale_lock()
    write_lock(*OWN)
    assert not remove_stale_lock()  # this process holds what a second Snakemake would find
    command = [sys.executable, "-c", OTHER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    shutil.rmtree(".snakemake")
    write_lock(*OWN)
    with subprocess.Popen(command, **pipes) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "True\n"
        write_lock(*OWN)
        with subprocess.Popen(command, **pipes) as second:  # type: ignore[call-overload]
            assert second.stdout.readline() == "False\n"
            first.kill()
            first.wait()
        assert len(list(Path(".snakemake/locks").iterdir())) == 2


def test_the_lock_of_another_workflow_stays(workplace: Path) -> None:
    write_lock(*OWN, "plots/a.png")
    assert not remove_stale_lock()
    write_lock("results/plots/a.png")
    assert len(list(Path(".snakemake/locks").iterdir())) == 2


def write_marks(*outputs: str) -> None:
    """Mark files as unfinished, as Snakemake does: base64, in parts of at most 255 characters."""
    for output in outputs:
        code = base64.urlsafe_b64encode(output.encode()).decode()
        parts = [code[k : k + 254] for k in range(0, len(code), 254)]
        mark = Path(".snakemake/incomplete", *(f"@{part}" for part in parts[:-1]), parts[-1])
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text("{}")


def test_marks_of_unfinished_artifacts_go_and_others_stay(workplace: Path) -> None:
    name = "n" * 200
    artifacts = [f"results/tokenizer/{x}/s0/0/provenance.json" for x in ("a", f"{name}/{name}")]
    write_marks(*artifacts, "results/tables/smoke/claims.csv", "plots/a.png", "results")
    Path(".snakemake/incomplete/strange").touch()
    assert len([f for f in Path(".snakemake/incomplete").rglob("*") if f.is_file()]) == 6
    subprocess.run([sys.executable, "-c", OTHER], input="", text=True, check=True)
    assert len([f for f in Path(".snakemake/incomplete").rglob("*") if f.is_file()]) == 4
