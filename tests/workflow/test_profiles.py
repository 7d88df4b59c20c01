"""The profile that every run uses, and that it takes nothing from the profile of a machine."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.cluster import stub_slurm
from tests.cluster.simulation import create, simulate
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace

DEFAULT = yaml.safe_load((REPOSITORY / "profiles" / "default" / "config.yaml").read_text())
SLURM = yaml.safe_load((REPOSITORY / "slurm" / "config.yaml").read_text())
SLOW = """
rule all:
    input:
        "a",

rule slow:
    output:
        "a",
    params:
        seconds=int(config.get("seconds", 0)),
    shell:
        "echo half > a; sleep {params.seconds}; echo whole > a"
"""


def test_no_key_is_in_both() -> None:
    assert set(DEFAULT) & set(SLURM) == set()
    machine = ("executor", "jobs", "cores", "resources", "default-resources", "set-resources")
    assert not set(machine) & set(DEFAULT)


def test_a_killed_run_goes_on_by_the_same_command(tmp_path) -> None:
    (tmp_path / "Snakefile").write_text(SLOW)
    (tmp_path / "profiles").symlink_to(REPOSITORY / "profiles")
    command = [sys.executable, "-m", "snakemake", "-c1"]
    killed = subprocess.Popen(
        [*command, "--config", "seconds=60"], cwd=tmp_path, start_new_session=True
    )
    until = time.monotonic() + 60
    while not (tmp_path / "a").exists() and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    Workspace(tmp_path).run(*command, "--unlock")
    Workspace(tmp_path).run(*command)
    assert (tmp_path / "a").read_text() == "whole\n"


def test_slurm_profile_is_in_force(tmp_path) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    study = yaml.safe_load((REPOSITORY / "studies" / "smoke.yaml").read_text())
    workspace = create(tmp_path / "work", study)
    commands = [stub_slurm.install(tmp_path / "slurm")]
    rule = ("--until", "prepare_dataset", "--slurm-init-seconds-before-status-checks", "1")
    outcome = simulate(workspace, "--profile", "slurm", *rule, commands=commands)
    assert outcome.status == 0, outcome.output
    assert "workflow specific profile" in outcome.output
    (job,) = stub_slurm.submitted(tmp_path / "slurm")  # so the executor is that of slurm/
    asked = SLURM["default-resources"]
    assert (job["account"], job["partition"]) == (asked["slurm_account"], asked["slurm_partition"])
