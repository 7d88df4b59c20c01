"""What runs after Snakemake or its fork server was killed, or when a job is forced."""

import base64
import contextlib
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from diffusability.artifacts.card import read_card
from diffusability.study.reading.load import read_yaml
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace, environment

COMMAND = ("snakemake", "-c1", "--configfile", "study.yaml", "--until", "train_tokenizer")


def start_training(workspace: Workspace) -> tuple["subprocess.Popen[bytes]", psutil.Process]:
    """Start Snakemake; return it and its fork server when a tokenizer is being trained."""
    process = subprocess.Popen(COMMAND, cwd=workspace.path, env=environment())
    for _ in range(6000):
        assert process.poll() is None
        with contextlib.suppress(psutil.Error):  # a process that has just ended
            for child in psutil.Process(process.pid).children():
                training = list(workspace.path.glob("results/state/tokenizer/*/*/*/progress.json"))
                if "diffusability.execution.fork_server" in child.cmdline() and training:
                    return process, child
        time.sleep(0.05)
    raise AssertionError("no training has begun")


def test_a_killed_snakemake_or_fork_server_loses_nothing(tmp_path: Path) -> None:
    """The training goes on: the same command waits for it, and a run without its server ends."""
    workspace, study = Workspace.create(tmp_path), read_yaml(REPOSITORY / "studies" / "smoke.yaml")
    study["bases"]["conv-f2d4"]["train"]["steps"] = 150
    study["select"]["tokenizers"] = ["conv-base"]
    workspace.write_study(study)
    snakemake, _ = start_training(workspace)
    snakemake.kill()
    snakemake.wait()
    workspace.run(*COMMAND)
    (card,) = workspace.path.glob("results/tokenizer/conv-base/s0/*/provenance.json")
    assert read_card(card.parent)["attempts"] == 1
    shutil.rmtree(card.parent)
    snakemake, server = start_training(workspace)
    server.kill()
    assert snakemake.wait() == 0
    assert read_card(card.parent)["attempts"] == 1
    assert not workspace.planned("--until", "train_tokenizer")


@pytest.mark.slow
def test_the_whole_study_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Snakemake alone would make what it had marked as unfinished, and call that everything."""
    workspace = Workspace.create(tmp_path)
    workspace.write_study(read_yaml(REPOSITORY / "studies" / "smoke.yaml"))
    workspace.run("snakemake", "-c1", "--configfile", "study.yaml", "--until", "prepare_dataset")
    left = workspace.planned()
    assert len(left) > 20
    (card,) = workspace.path.glob("results/dataset/*/*/provenance.json")
    name = str(card.relative_to(workspace.path))
    mark = base64.urlsafe_b64encode(name.encode()).decode()
    (workspace.path / ".snakemake" / "incomplete" / mark).write_text("{}")
    assert workspace.planned() == left
    forced = workspace.planned("-R", "prepare_dataset")
    assert forced == {**left, "prepare_dataset": ["dataset=digits"]}
