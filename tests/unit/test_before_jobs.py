"""What is refused before the first job is submitted: by results/, and by the cluster."""

import errno
import fcntl
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffusability.artifacts.job import Job
from diffusability.artifacts.lock import check_locks
from diffusability.errors import ArtifactError, StudyError
from diffusability.execution import disk_check
from diffusability.execution.disk_check import check_results
from diffusability.execution.slurm import (
    Request,
    check_cluster,
    check_run_times,
    check_submission,
    gpu_types,
    requests,
)
from diffusability.study.preflight.cost import Costs
from tests.cluster import stub_slurm
from tests.unit.study_run import plan_of

ASKED = {"slurm_account": "study", "slurm_partition": "gpu", "runtime": 60, "mem_mb": 8000}
Cluster = Callable[..., Path]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A function that puts a stub of Slurm first on PATH."""

    def start(**over: Any) -> Path:
        commands = stub_slurm.install(tmp_path / "slurm", **over)
        monkeypatch.setenv("PATH", str(commands), prepend=":")
        return tmp_path / "slurm"

    return start


def asks(rule: str = "train_tokenizer", **over: Any) -> list[Request]:
    """Return the request of one rule for a job on one GPU."""
    return [Request(rule, 8, {**ASKED, "gpu": 1, **over})]


def test_what_the_cluster_has_is_accepted(cluster: Cluster) -> None:
    folder = cluster()
    check_cluster(asks(gpu_model="h100") + asks(gpu=0, gres="gpu:h100:1") + asks(gpu=0))
    assert stub_slurm.submitted(folder) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"slurm_account": ""},
            r"a job of train_tokenizer \(no account; yours: other, study\): You must",
        ),
        ({"slurm_account": "typo"}, r"account typo; yours: other, study\): Invalid account or"),
        ({"slurm_partition": "gpus"}, "invalid partition specified: gpus"),
        (
            {"gpu_model": "h1oo"},
            "GPUs of type `h1oo`, which this cluster does not have; it has h100",
        ),
        ({"gpu": 0, "gres": "gpu:a100:1"}, "GPUs of type `a100`"),
        ({"gpu": 9}, "Requested node configuration is not available"),
        ({"runtime": 2000}, "Requested node configuration is not available"),
    ],
)
def test_what_it_lacks_is_refused(cluster: Cluster, change: dict[str, Any], message: str) -> None:
    folder = cluster()
    with pytest.raises(StudyError, match=message) as refusal:
        check_cluster(asks(**change))
    assert "slurm/config.yaml" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert stub_slurm.submitted(folder) == []


@pytest.mark.parametrize("needed", [False, True])
def test_an_account_is_needed_where_the_cluster_needs_one(cluster: Cluster, needed: bool) -> None:
    cluster(needs_account=needed)
    refused = pytest.raises(StudyError, match="account") if needed else nullcontext()
    with refused:
        check_cluster(asks(slurm_account=""))


def test_no_slurm_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StudyError, match="sinfo: cannot be run here"):
        check_cluster(asks())


def test_types_of_gpus_in_sinfo() -> None:
    listing = "gpu* gpu:h100:4(S:0-1),gpu:nvidia_a100_80gb:2\ncpu (null)\nold gpu:8"
    assert gpu_types(listing) == {"h100", "nvidia_a100_80gb"}


def test_requests_are_the_largest_of_each_rule_and_the_sum_of_a_group() -> None:
    def job(rule: str, threads: int, group: str | None = None, **asked: Any) -> SimpleNamespace:
        name = SimpleNamespace(name=rule)
        return SimpleNamespace(rule=name, threads=threads, group=group, resources=asked)

    jobs = [
        job("a", 1, mem_mb=10, runtime=30, slurm_partition="cpu", _cores=1),
        job("a", 4, mem_mb=20, runtime=20, slurm_partition="cpu", _cores=4),
        *(job("b", 2, "large", mem_mb=5, runtime=60) for _ in range(4)),
        *(job("c", 2, "small", mem_mb=5, runtime=60) for _ in range(2)),
    ]
    a, b, c = requests(jobs, {"b": 3, "c": 3})
    assert a == Request("a", 4, {"mem_mb": 20, "runtime": 30, "slurm_partition": "cpu"})
    assert b == Request("b", 6, {"mem_mb": 15, "runtime": 60})
    assert c == Request("c", 4, {"mem_mb": 10, "runtime": 60})  # there are only two


def test_a_training_shorter_than_its_checkpoints() -> None:
    check_run_times(asks(runtime=6), {"train_tokenizer"})
    check_run_times(asks("sample", runtime=5), {"train_tokenizer"})
    with pytest.raises(StudyError, match="train_tokenizer: a `runtime` of 5 min .* give it 6 min"):
        check_run_times(asks(runtime=5), {"train_tokenizer"})


def test_only_slurm_is_asked_as_slurm_is(cluster: Cluster) -> None:
    """Jobs of other executors have run times too; Slurm is asked about what a group sums up."""
    cluster()

    def run(executor: str, **over: Any) -> None:
        name = SimpleNamespace(name="sample")
        asked = {**ASKED, "gpu": 5, **over}
        jobs = [SimpleNamespace(rule=name, threads=8, group="g", resources=asked) for _ in "ab"]
        workflow = SimpleNamespace(
            dag=SimpleNamespace(needrun_jobs=lambda: jobs),
            group_settings=SimpleNamespace(overwrite_groups={"sample": "g"}, group_components={}),
            executor_plugin=SimpleNamespace(name=executor),
        )
        check_submission(workflow, {"sample"})
        workflow.group_settings.group_components["g"] = 3
        check_submission(workflow, {"sample"})

    run("kubernetes", slurm_account="")
    with pytest.raises(StudyError, match="runtime` of 5 min"):
        run("kubernetes", runtime=5)
    with pytest.raises(StudyError, match="no account"):
        run("slurm", slurm_account="")
    with pytest.raises(StudyError, match=r"not available.*--gpus=10"):
        run("slurm")  # one job of five GPUs is taken, two together are not
    run("slurm", gpu=1)


def no_locks(descriptor: Any, operation: int) -> None:
    """What a file system without locks answers."""
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(
    ("answer", "message"),
    [(no_locks, "No locks available"), (lambda *_: None, "granted one lock twice")],
)
def test_a_file_system_without_locks(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, message: str
) -> None:
    monkeypatch.setattr(fcntl, "flock", answer)
    with pytest.raises(ArtifactError, match=f"results: .*{message}.*mount it with locks"):
        check_locks(Path("results"))
    assert list(Path("results").iterdir()) == []


def test_locks_that_hold_leave_nothing_behind(workplace: Path) -> None:
    check_locks(Path("results"))
    assert list(Path("results").iterdir()) == []


def test_a_disk_that_is_too_small(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of({})
    costs = Costs(plan.study)
    sizes = [(a, costs.work(a).bytes) for a in plan]
    whole = sum(size for _, size in sizes)
    bulk = {
        stage: sorted(size for artifact, size in sizes if artifact.stage == stage)
        for stage in ("latents", "samples")
    }
    assert [len(each) for each in bulk.values()] == [2, 2]
    evictable = sum(sum(each[:-1]) for each in bulk.values())

    def free(count: int) -> None:
        monkeypatch.setattr(disk_check.shutil, "disk_usage", lambda _: SimpleNamespace(free=count))

    free(whole)
    assert check_results(plan) is None
    free(whole - 1)
    assert "evict them while it runs: diffusability gc --evict --yes" in (check_results(plan) or "")
    free(whole - evictable)
    assert check_results(plan)
    free(whole - evictable - 1)
    with pytest.raises(ArtifactError, match="are free; free more, make results a link"):
        check_results(plan)


def test_what_is_there_needs_no_room(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of({})
    whole = sum(Costs(plan.study).work(a).bytes for a in plan)
    (artifact, *_) = plan.of_stage("encoder")
    job = Job.from_json(artifact.job())
    with job.writing() as folder:
        for name in ("model.safetensors", "history.csv"):
            (folder / name).touch()
    less = whole - Costs(plan.study).work(artifact).bytes
    monkeypatch.setattr(disk_check.shutil, "disk_usage", lambda _: SimpleNamespace(free=less))
    assert check_results(plan) is None
