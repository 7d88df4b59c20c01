"""Faults of a training on a cluster: it resumes, and ends bitwise equal to an undisturbed one."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from diffusability.artifacts.card import read_card
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.reading.load import load_study, read_yaml
from tests.conftest import REPOSITORY
from tests.full.slurm import faulty_training
from tests.full.slurm.cluster import Cluster
from tests.full.slurm.faulty_training import INTERVAL, STRIKE
from tests.full.slurm.submission import command, driver, prepare, until
from tests.workflow.workspace import Workspace

FAULTS = ("fails-once", "half-checkpoint", "out-of-memory", "out-of-time", "cancelled", "preempted")
PATIENCE = 900  # seconds, on a machine that is busy with other things
ALONE = ("orphan", "node-down")
STEPS = 30
RESOURCES = {
    "runtime": "30",
    # the first attempt of out-of-memory has room for its training, not for what else it takes
    "mem_mb": "attempt * 1200 if wildcards.tokenizer == 'out-of-memory' else 4000",
}


def tokenizer(workspace: Workspace, name: str) -> Artifact:
    """Return a tokenizer as planned."""
    plan = Plan(load_study(workspace.path / "study.yaml"))
    (found,) = (a for a in plan.of_stage("tokenizer") if a.name == f"{name}/s0")
    return found


def card(workspace: Workspace, name: str) -> str:
    """Return the path of a tokenizer's card: the target that asks for it."""
    return str(tokenizer(workspace, name).card)


def steps(workspace: Workspace, name: str) -> list[str]:
    """Return, for every step that was taken, the Slurm job that took it."""
    path = workspace.path / "steps" / name
    return path.read_text().split() if path.exists() else []


def redone(workspace: Workspace, name: str) -> int:
    """Return how many steps were taken more than once."""
    return len(steps(workspace, name)) - STEPS


def states(cluster: Cluster, workspace: Workspace, name: str) -> list[str]:
    """Return the ends of a tokenizer's jobs in order, those before a requeue included."""
    numbers = ",".join(dict.fromkeys(steps(workspace, name)))
    ends = cluster.ask("sacct", "-X", "-D", "-n", "-P", "-j", numbers, "-o", "State")
    return [line.split()[0] for line in ends.splitlines()]


def assert_undisturbed(workspace: Workspace, name: str, attempts: int) -> None:
    """Check that the artifact is what an undisturbed training makes, made in so many attempts."""
    found = workspace.path / card(workspace, name)
    expected = workspace.path / card(workspace, "undisturbed")
    assert read_card(found.parent)["outputs"] == read_card(expected.parent)["outputs"]
    assert read_card(found.parent)["attempts"] == attempts
    assert not list(workspace.path.glob(f"results/state/tokenizer/{name}/**/*"))


def resumed(workspace: Workspace, name: str) -> str:
    """Return the log of the last attempt."""
    (log,) = workspace.path.glob(f"results/logs/train_tokenizer/{name}.s0.*.log")
    return log.read_text()


@pytest.fixture(scope="module")
def workspace(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A study of equal trainings with a fault each; the undisturbed one is made, without Slurm.

    They differ in the length at which gradients are clipped, which none reaches: two tokenizers
    with the same options are refused.
    """
    study = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
    names = ("undisturbed", *FAULTS, *ALONE)
    study["tokenizers"] = {
        name: {"base": "conv-f2d4", "method": "baseline", "train": {"clip": 1e9 + number}}
        for number, name in enumerate(names)
    }
    workspace = prepare(
        tmp_path_factory.mktemp("faults") / "work", study, train_tokenizer=RESOURCES
    )
    made = card(workspace, "undisturbed")
    workspace.run("snakemake", "-c1", made, "--configfile", "study.yaml", "--show-failed-logs")
    shutil.copy2(faulty_training.__file__, workspace.path / "scripts" / "make.py")
    return workspace


def release(workspace: Workspace, name: str) -> None:
    """Let a training go on that waits for its fault."""
    (workspace.path / "released").mkdir(exist_ok=True)
    (workspace.path / "released" / name).touch()


def saved_twice(workspace: Workspace, name: str) -> str | None:
    """Return the job that trains a tokenizer and has saved two checkpoints, if there is one."""
    found = workspace.path.glob(f"results/state/tokenizer/{name}/s0/*/checkpoint.previous.*")
    return steps(workspace, name)[-1] if list(found) else None


@pytest.fixture(scope="module")
def struck(cluster: Cluster, workspace: Workspace) -> Workspace:
    """The workspace after one run in which every fault of FAULTS came."""
    targets = [card(workspace, name) for name in FAULTS]
    with driver(workspace, *targets, jobs=len(FAULTS)) as snakemake:
        late = until("a job whose time ends", lambda: saved_twice(workspace, "out-of-time"))
        cluster.ask("scontrol", "update", f"JobId={late}", "TimeLimit=1")
        number = until("a job to cancel", lambda: saved_twice(workspace, "cancelled"))
        cluster.ask("scancel", number)
        release(workspace, "cancelled")
        number = until("a job to preempt", lambda: saved_twice(workspace, "preempted"))
        cluster.ask("scontrol", "requeue", number)
        release(workspace, "preempted")
        until("a requeued job", lambda: cluster.jobs().get(number) == "PENDING")
        cluster.ask("scontrol", "update", f"JobId={number}", "StartTime=now")
        until("Slurm ends it", lambda: cluster.jobs().get(late) != "RUNNING")
        release(workspace, "out-of-time")
        status = snakemake.wait(PATIENCE)
    assert status == 0, (workspace.path / "driver.log").read_text()
    return workspace


def test_a_job_that_fails_once_is_tried_again(cluster: Cluster, struck: Workspace) -> None:
    assert_undisturbed(struck, "fails-once", attempts=2)
    assert states(cluster, struck, "fails-once") == ["FAILED", "COMPLETED"]
    assert redone(struck, "fails-once") == STRIKE % INTERVAL


def test_half_a_checkpoint_falls_back_to_the_one_before(
    cluster: Cluster, struck: Workspace
) -> None:
    assert_undisturbed(struck, "half-checkpoint", attempts=2)
    assert "trying the previous one" in resumed(struck, "half-checkpoint")
    assert redone(struck, "half-checkpoint") == STRIKE % INTERVAL + INTERVAL


def test_a_job_without_memory_gets_more(cluster: Cluster, struck: Workspace) -> None:
    assert_undisturbed(struck, "out-of-memory", attempts=2)
    first, second = states(cluster, struck, "out-of-memory")
    # with accounting by polling Slurm calls it cancelled or failed, with control groups by its name
    assert first in ("OUT_OF_MEMORY", "FAILED", "CANCELLED")
    assert second == "COMPLETED"
    numbers = ",".join(dict.fromkeys(steps(struck, "out-of-memory")))
    memory = cluster.ask("sacct", "-X", "-n", "-P", "-j", numbers, "-o", "ReqMem")
    assert memory.split() == ["1200M", "2400M"]
    assert redone(struck, "out-of-memory") <= INTERVAL


def test_a_wall_time_limit_costs_no_more_than_a_checkpoint_interval(
    cluster: Cluster, struck: Workspace
) -> None:
    assert_undisturbed(struck, "out-of-time", attempts=2)
    assert states(cluster, struck, "out-of-time") == ["TIMEOUT", "COMPLETED"]
    assert redone(struck, "out-of-time") <= INTERVAL


def test_a_job_cancelled_by_hand_is_submitted_again(cluster: Cluster, struck: Workspace) -> None:
    assert_undisturbed(struck, "cancelled", attempts=2)
    assert states(cluster, struck, "cancelled") == ["CANCELLED", "COMPLETED"]
    assert redone(struck, "cancelled") <= INTERVAL


def test_a_preempted_job_goes_on_when_it_is_requeued(cluster: Cluster, struck: Workspace) -> None:
    assert_undisturbed(struck, "preempted", attempts=2)
    assert len(set(steps(struck, "preempted"))) == 1  # one job, two runs
    assert states(cluster, struck, "preempted")[-1] == "COMPLETED"
    assert redone(struck, "preempted") <= INTERVAL


def test_a_node_that_is_lost(cluster: Cluster, workspace: Workspace) -> None:
    with driver(workspace, card(workspace, "node-down")) as snakemake:
        number = until("a job on the node", lambda: saved_twice(workspace, "node-down"))
        # the node comes back at once, and Slurm starts the job again when it has settled: hurried,
        # it would find the former run's traces there and drain the node
        cluster.lose_node(number)
        status = snakemake.wait(PATIENCE)
    assert status == 0, (workspace.path / "driver.log").read_text()
    assert_undisturbed(workspace, "node-down", attempts=2)
    assert states(cluster, workspace, "node-down") == ["NODE_FAIL", "COMPLETED"]
    assert redone(workspace, "node-down") <= INTERVAL


@pytest.fixture
def orphan(workspace: Workspace) -> str:
    """The number of a job at work whose driver was killed."""
    with driver(workspace, card(workspace, "orphan")) as snakemake:
        number = until("a job of the driver", lambda: saved_twice(workspace, "orphan"))
        os.killpg(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
    return str(number)


def test_a_driver_that_is_killed_and_started_again(
    cluster: Cluster, workspace: Workspace, orphan: str
) -> None:
    target = card(workspace, "orphan")
    workspace.run("snakemake", "--unlock", "--configfile", "study.yaml")
    refused = workspace.run(*command(target), check=False)
    assert refused.returncode != 0
    assert "Slurm still has 1 jobs of an earlier run" in refused.stdout
    assert f"scancel {orphan}" in refused.stdout
    assert list(cluster.jobs()) == [orphan]
    # whoever starts the same work all the same waits for it, and does none of it
    job = tokenizer(workspace, "orphan").job()
    log = workspace.path / "second.log"
    with log.open("w") as file:
        script = [sys.executable, "scripts/make.py", "tokenizer", "--job", job]
        second = subprocess.Popen(script, cwd=workspace.path, stdout=file, stderr=file)
    until("the second waits", lambda: f"job {orphan} is making" in log.read_text())
    release(workspace, "orphan")
    assert second.wait(PATIENCE) == 0
    assert "another process has made" in log.read_text()
    until("the orphan has ended", lambda: not cluster.jobs())
    again = workspace.run(*command(target))
    assert "Nothing to be done" in again.stdout
    assert_undisturbed(workspace, "orphan", attempts=1)
    assert redone(workspace, "orphan") == 0
