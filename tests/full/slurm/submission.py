"""A workspace whose profile was edited for the test cluster, and Snakemake running in it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.full.slurm.cluster import ACCOUNT, CPU_PARTITION, GPU_PARTITION
from tests.workflow.workspace import Workspace

PROFILE = "slurm/config.yaml"
# what a run of minutes wants: the profile asks Slurm less often, and waits for slow file systems
HURRY = ("--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "5")


def prepare(path: Path, study: Mapping[str, Any], **resources: Mapping[str, str]) -> Workspace:
    """Return a workspace with study.yaml and the profile edited as a user would.

    Args:
        path: folder to create.
        study: content of study.yaml.
        resources: rule to resources that replace the profile's.
    """
    workspace = Workspace.create(path)
    workspace.write_study(study)
    profile = yaml.safe_load((path / PROFILE).read_text())
    profile = _renamed(profile)
    profile["set-threads"] = dict.fromkeys(profile.get("set-threads", {}), 1)  # two real cores
    for values in profile["set-resources"].values():
        if values.get("cpus_per_gpu"):
            values["cpus_per_gpu"] = 1
    for rule, values in resources.items():
        profile["set-resources"].setdefault(rule, {}).update(values)
    (path / PROFILE).write_text(yaml.safe_dump(profile, sort_keys=False))
    return workspace


def _renamed(value: Any) -> Any:
    """Return the profile with the cluster's own account and partitions."""
    if not isinstance(value, dict):
        return value
    names = {"cpu": CPU_PARTITION, "gpu": GPU_PARTITION}
    edited = {key: _renamed(entry) for key, entry in value.items()}
    if "slurm_account" in edited:
        edited["slurm_account"] = ACCOUNT
    if "slurm_partition" in edited:
        edited["slurm_partition"] = names[edited["slurm_partition"]]
    return edited


def command(*targets: str, jobs: int = 4) -> tuple[str, ...]:
    """Return the command that submits what the targets need."""
    study = ("--configfile", "study.yaml")
    return ("snakemake", *targets, "--profile", "slurm", *study, *HURRY, "--jobs", str(jobs))


@contextlib.contextmanager
def driver(workspace: Workspace, *targets: str, jobs: int = 4) -> Iterator[subprocess.Popen[str]]:
    """Yield Snakemake at work in the background; it is ended with the block."""
    folder = Path(sys.executable).parent
    with (workspace.path / "driver.log").open("w") as log:
        process = subprocess.Popen(
            command(*targets, jobs=jobs),
            cwd=workspace.path,
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def until(what: str, condition: Callable[[], Any], seconds: float = 900) -> Any:
    """Return the first true value of the condition.

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
