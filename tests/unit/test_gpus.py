"""Jobs take free GPUs by locks: each its own, all or none, and back when a process dies."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusability.artifacts.inventory import state_of
from diffusability.artifacts.progress import read_progress
from diffusability.errors import ArtifactError
from diffusability.execution import gpus
from diffusability.execution.gpus import SUBMITTED, machine_gpus, take_gpus
from diffusability.stages import command
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY

TAKE = """
import sys, time
from diffusability.execution.gpus import take_gpus
print(",".join(take_gpus(int(sys.argv[1]))), flush=True)
sys.stdin.readline()
"""
Environment = dict[str, str]


@pytest.fixture
def machine(tmp_path: Path) -> Environment:
    """The environment of a machine with two GPUs, `a` and `b`, and locks of its own."""
    rest = {name: value for name, value in os.environ.items() if name != SUBMITTED}
    rest |= {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    return rest | {"CUDA_VISIBLE_DEVICES": "a,b"}


def job(machine: Environment, count: int = 1) -> subprocess.Popen[str]:
    """Start a process that takes GPUs, prints them, and ends when its stdin is closed."""
    arguments = [sys.executable, "-c", TAKE, str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=machine, stdin=pipe, stdout=pipe, text=True)


def taken(process: subprocess.Popen[str]) -> str:
    """Return what a process took; waits until it has."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def waits(process: subprocess.Popen[str]) -> bool:
    """Return whether a process has taken nothing after the time that another needed to start."""
    return not select.select([process.stdout], [], [], 4.0)[0]


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.communicate()


def test_jobs_take_one_each_and_a_third_waits_for_the_first_to_die(machine: Environment) -> None:
    first = job(machine)
    assert taken(first) == "a"
    second = job(machine)
    assert taken(second) == "b"
    third = job(machine)
    assert waits(third)
    first.send_signal(signal.SIGKILL)
    assert taken(third) == "a"
    end(first, second, third)


def test_a_waiting_launcher_says_so_in_the_state_of_its_job(
    machine: Environment, workplace: Path
) -> None:
    artifact = Plan(load_study(REPOSITORY / "studies" / "smoke.yaml")).of_stage("diffusion")[0]
    first = job(machine, 2)
    assert taken(first) == "a,b"
    words = [sys.executable, "-m", "diffusability.execution.gpus", "2", "true"]
    second = subprocess.Popen([*words, "--job", artifact.job()], env=machine)
    until = time.monotonic() + 60
    while read_progress(state_of(artifact)) is None and time.monotonic() < until:
        time.sleep(0.1)
    noted = read_progress(state_of(artifact))
    assert noted is not None
    assert (noted.state, noted.waits_for) == ("waiting", "2 of 2 GPUs")
    end(first)
    assert second.wait(60) == 0


def test_two_at_once_or_none(machine: Environment) -> None:
    first = job(machine)
    assert taken(first) == "a"
    both = job(machine, 2)
    time.sleep(1.0)
    last = job(machine)
    assert taken(last) == "b"  # what waits for both holds neither
    end(first, last)
    assert taken(both) == "a,b"
    end(both)


def test_a_gpu_that_jobs_share(machine: Environment) -> None:
    shared = machine | {"DIFFUSABILITY_JOBS_PER_GPU": "2"}
    jobs = []
    for expected in "abab":
        jobs.append(job(shared))
        assert taken(jobs[-1]) == expected
    end(*jobs)
    both = job(shared, 2)  # two different ones
    assert taken(both) == "a,b"
    end(both)


def test_a_program_that_replaces_the_process_keeps_them(machine: Environment) -> None:
    show = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); input()"
    launcher = [sys.executable, "-m", "diffusability.execution.gpus", "2"]
    pipe = subprocess.PIPE
    torchrun = subprocess.Popen(
        [*launcher, sys.executable, "-c", show], env=machine, stdin=pipe, stdout=pipe, text=True
    )
    assert taken(torchrun) == "a,b"
    waiting = job(machine)
    assert waits(waiting)
    torchrun.kill()
    assert taken(waiting) == "a"
    end(torchrun, waiting)


def test_more_than_there_are_is_refused(machine: Environment) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "diffusability.execution.gpus", "3", "true"],
        env=machine,
        capture_output=True,
        text=True,
    )
    assert result.returncode == ArtifactError.exit_code
    assert "needs 3 GPUs, but 2 can be used here (a, b)" in result.stderr


def test_a_schedulers_choice_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv(SUBMITTED, "1")
    assert take_gpus(1) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_jobs_share_the_devices_of_an_interactive_allocation(machine: Environment) -> None:
    for name in ("SLURM_JOB_ID", "JOB_ID", "KUBERNETES_SERVICE_HOST"):
        first = job(machine | {name: "7", SUBMITTED: "0"})
        second = job(machine | {name: "7"})
        assert {taken(first), taken(second)} == {"a", "b"}
        end(first, second)


def test_a_device_has_one_lock_by_number_and_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_uuids", lambda: {"0": "GPU-x", "1": "GPU-y"})
    names = [[lock.name for _, lock in gpus._slots(n, Path())] for n in (["0"], ["GPU-x"])]
    assert names == [["GPU-x.0.lock"]] * 2
    assert machine_gpus({"CUDA_VISIBLE_DEVICES": "0,GPU-x,1"}) == ["GPU-x", "1"]


def test_a_shortened_uuid_is_that_of_its_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpus, "_uuids", lambda: {"0": "GPU-1a2b", "1": "GPU-1c3d"})
    assert machine_gpus({"CUDA_VISIBLE_DEVICES": "GPU-1c,1"}) == ["1"]
    locks = [lock for _, lock in gpus._slots(["GPU-1a", "0", "GPU-1"], tmp_path)]
    assert locks[0] == locks[1] == tmp_path / "GPU-1a2b.0.lock"
    assert locks[2].name == "GPU-1.0.lock"  # of both, so of none


@pytest.mark.parametrize("text", ["0", "two", "-1", ""])
def test_jobs_per_gpu_are_a_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a")
    monkeypatch.delenv(SUBMITTED, raising=False)
    monkeypatch.setenv("DIFFUSABILITY_JOBS_PER_GPU", text)
    with pytest.raises(ArtifactError, match="write a number of jobs, 1 or more, or unset it"):
        take_gpus(1)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        *(("", []), ("-1", []), ("2", ["2"]), ("GPU-a, 1", ["GPU-a", "1"])),
        *(("0,0", ["0"]), ("0,-1,1", ["0"]), ("-1,0", [])),
    ],
)
def test_visible_devices_are_the_ones_to_take(visible: str, expected: list[str]) -> None:
    assert machine_gpus({"CUDA_VISIBLE_DEVICES": visible}) == expected


@pytest.mark.parametrize(
    ("stage", "device", "rank", "expected"),
    [
        ("diffusion", "auto", None, [1]),
        ("diffusion", "cuda", None, [1]),
        ("diffusion", "cpu", None, []),
        ("diffusion", "cuda:1", None, []),  # whoever names one has chosen
        ("diffusion", "auto", "0", []),  # torchrun's processes share what it was started on
        ("velocity", "auto", None, []),  # works on CPU cores
    ],
)
def test_which_jobs_take_one(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    device: str,
    rank: str | None,
    expected: list[int],
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(command, "take_gpus", lambda count, state: asked.append(count))
    monkeypatch.setattr(command, "_device", lambda name: "cpu")
    monkeypatch.setattr(command, "_make", lambda job: None)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    study = str(REPOSITORY / "studies" / "smoke.yaml")
    name = "conv-base/s0/sit-a" if stage == "diffusion" else "conv-base"
    assert command.run("", [stage, "--study", study, "--name", name, "--device", device]) == 0
    assert asked == expected
