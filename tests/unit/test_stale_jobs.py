"""A run does not begin while a cluster still works for an earlier one."""

from pathlib import Path

import pytest

from diffusability.errors import StudyError
from diffusability.execution.slurm import check_no_stale_jobs

COMMENT = "rule_train_tokenizer_wildcards_conv-base_0"


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file whose lines a stand-in for squeue prints, the only program on PATH."""
    listing = tmp_path / "listing"
    listing.touch()
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec /bin/cat {listing}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return listing


def test_jobs_of_this_folder_are_named(squeue: Path, tmp_path: Path) -> None:
    lines = [f"{k}|RUNNING|{tmp_path}|{COMMENT}" for k in range(10, 17)]
    squeue.write_text("\n".join(lines))
    with pytest.raises(StudyError) as caught:
        check_no_stale_jobs(str(tmp_path))
    message = str(caught.value)
    assert "Slurm still has 7 jobs of an earlier run" in message
    assert f"  10 running: {COMMENT}" in message
    assert message.count(COMMENT) == 5
    assert "... and 2 more" in message
    assert "scancel 10 11 12 13 14 15 16\n" in message


def test_other_jobs_are_none_of_its_business(squeue: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    squeue.write_text(
        f"1|RUNNING|{tmp_path}|{COMMENT}\n"  # another folder
        f"2|RUNNING|{mine}|(null)\n"  # this one, but not of Snakemake: an interactive shell
        "slurm_load_jobs error: a message\n"
    )
    check_no_stale_jobs(str(mine))
    squeue.write_text(squeue.read_text() + f"3|RUNNING|{mine}|{COMMENT}\n")
    with pytest.raises(StudyError, match="scancel 3\n"):
        check_no_stale_jobs(str(mine))


def test_without_slurm_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_no_stale_jobs(str(tmp_path))
