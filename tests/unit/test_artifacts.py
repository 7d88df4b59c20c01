"""Artifacts are whole or absent, verified when read, and written by one process at a time."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from diffusability.artifacts.atomic import write_bytes, write_json
from diffusability.artifacts.card import read_card, verified
from diffusability.artifacts.inventory import damage
from diffusability.artifacts.job import Job
from diffusability.artifacts.lock import empty, exclusive, holder
from diffusability.errors import ArtifactBusyError, ArtifactError
from diffusability.execution.fork_client import LOST
from diffusability.stages import command
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY


@pytest.fixture
def job(workplace: Path) -> Job:
    """A job of the first stage of the smoke study."""
    artifact = next(iter(Plan(load_study(REPOSITORY / "studies" / "smoke.yaml"))))
    return Job.from_json(artifact.job())


def publish(job: Job, text: str = "{}") -> None:
    """Make the job's artifact with the given content."""
    with job.writing() as folder:
        (folder / "manifest.json").write_text(text)


def test_published_artifact_verifies(job: Job) -> None:
    publish(job)
    card = verified(job.path, "dataset", job.fingerprint)
    assert card["attempts"] == 1
    assert card["spec"] == dict(job.spec)
    assert not damage(job.path)
    assert not job.state.exists()


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda p: (p / "manifest.json").write_text("{"), "has 1 bytes instead of 2"),
        (lambda p: (p / "manifest.json").write_text("[]"), "was altered"),
        (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda p: (p / "provenance.json").write_text("{"), "damaged provenance card"),
        (lambda p: (p / "provenance.json").unlink(), "it has no provenance.json"),
    ],
)
def test_harm_is_named_with_the_command_that_mends_it(job: Job, harm, expected: str) -> None:
    publish(job)
    harm(job.path)
    with pytest.raises(ArtifactError) as caught:
        verified(job.path, "dataset", job.fingerprint)
    assert expected in str(caught.value)
    assert re.search(rf"snakemake -c1 (-f )?{job.path}/provenance.json", str(caught.value))
    assert expected in " ".join(damage(job.path))


def test_another_artifact_under_this_name_is_refused(job: Job) -> None:
    publish(job)
    card = read_card(job.path)
    write_json(job.path / "provenance.json", card | {"fingerprint": "0" * 12})
    with pytest.raises(ArtifactError, match="copied or renamed by hand"):
        verified(job.path, "dataset", job.fingerprint)


def test_a_failure_leaves_nothing_and_touches_nothing(job: Job) -> None:
    publish(job, "{}")
    before = read_card(job.path)

    def fail() -> None:
        with job.writing() as folder:
            (folder / "manifest.json").write_text("half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert read_card(job.path) == before
    assert (job.path / "manifest.json").read_text() == "{}"
    assert not list(job.state.glob("staging"))


def test_a_missing_output_is_not_published(job: Job) -> None:
    with pytest.raises(ArtifactError, match="manifest.json was not written"), job.writing():
        pass
    assert not job.path.exists()


def test_full_disk_is_one_sentence(job: Job) -> None:
    with pytest.raises(ArtifactError, match="the disk is full"), job.writing() as folder:
        (folder / "manifest.json").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not job.path.exists()


def test_full_disk_leaves_the_old_file(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workplace / "file"
    write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="the disk is full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in workplace.iterdir()] == ["file"]


def test_an_attempt_counter_cut_off_by_a_full_disk_is_no_obstacle(job: Job) -> None:
    job.state.mkdir(parents=True)
    (job.state / "attempts").write_bytes(b"")
    publish(job)
    assert read_card(job.path)["attempts"] == 1


def test_results_on_two_file_systems(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file = os.replace

    def between(source: str | Path, target: str | Path) -> None:
        if ("state" in Path(source).parts) != ("state" in Path(target).parts):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", between)
    publish(job, "[1]")
    assert verified(job.path, "dataset", job.fingerprint)
    assert (job.path / "manifest.json").read_text() == "[1]"
    assert sorted(p.name for p in job.path.iterdir()) == ["manifest.json", "provenance.json"]


def test_unfinished_files_of_a_killed_job_are_removed_by_the_next(job: Job) -> None:
    job.path.mkdir(parents=True)
    (job.path / ".provenance.json.17.tmp").write_text("{")
    publish(job)
    assert sorted(p.name for p in job.path.iterdir()) == ["manifest.json", "provenance.json"]


@pytest.mark.parametrize("call", ["mkdir", "open", "pwrite", "fsync", "replace"])
def test_a_full_disk_anywhere_is_one_sentence(
    job: Job, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full disk test of every kind of file-system call; all places: `make test-faults`."""
    whole = getattr(os, call)

    def full(*args: object, **options: object) -> object:
        wanted = call != "open" or int(args[1]) & os.O_CREAT  # type: ignore[call-overload]
        if wanted and "results" in str(args[0]) + str(Path.cwd() if call == "pwrite" else ""):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if call in ("fsync", "pwrite"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        if call == "pwrite":  # the lock's note: without it the lock still holds
            publish(job)
        else:
            with pytest.raises(ArtifactError, match="the disk is full"):
                publish(job)
    publish(job)
    assert verified(job.path, "dataset", job.fingerprint)


def test_job_edited_by_hand_cannot_take_anothers_name(job: Job) -> None:
    plain = {"stage": job.stage, "version": job.version, "name": job.name, "seed": job.seed}
    text = json.dumps(
        plain | {"spec": {**job.spec, "size": 32}, "upstream": {}, "path": str(job.path)}
    )
    with pytest.raises(ArtifactError, match="fingerprint mismatch"), Job.from_json(text).writing():
        pass


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": "dataset"}', '{"stage": 1, "foo": 2}'])
def test_job_that_is_none(text: str) -> None:
    with pytest.raises(ArtifactError, match="not a job of a plan"):
        Job.from_json(text)


def _hold(path: Path, held: object, release: object) -> None:
    with exclusive(path, "it"):
        held.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]


def test_second_writer_is_refused_and_a_dead_one_forgotten(job: Job) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(job.state / "lock", held, release))
    other.start()
    assert held.wait(30)
    with pytest.raises(ArtifactBusyError, match=f"process {other.pid} on") as caught:
        publish(job)
    assert caught.value.exit_code == 75
    other.kill()  # SIGKILL: no clean-up of its own
    other.join()
    publish(job)
    assert not damage(job.path)


def test_waiting_for_a_lock_gets_it(workplace: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    path = workplace / "lock"
    other = context.Process(target=_hold, args=(path, held, release))
    other.start()
    assert held.wait(30)
    release.set()
    with exclusive(path, "it", wait=30):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    other.join()
    assert not path.exists()


def test_a_lock_that_is_handed_over_is_never_held_by_two(workplace: Path) -> None:
    path = workplace / "state" / "lock"
    with exclusive(path, "first"):
        shutil.rmtree(path.parent)  # as someone may who cleans up
        second = exclusive(path, "second")
        second.__enter__()
    assert holder(path)  # the first took away its own file alone
    with pytest.raises(ArtifactBusyError), exclusive(path, "third"):
        pass
    second.__exit__(None, None, None)
    assert not path.parent.exists()


def _count(path: Path, counter: Path, times: int) -> None:
    for _ in range(times):
        with exclusive(path, "it", wait=60):
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))
            empty(path)  # and its folder goes when the lock does


def test_many_waiters_hold_it_one_after_another(workplace: Path) -> None:
    counter, path = workplace / "counter", workplace / "state" / "lock"
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_count, args=(path, counter, 20)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert counter.read_text() == "60"
    assert not path.parent.exists()


def _publish_when_told(job: Job, held: object, release: object) -> None:
    with job.writing() as folder:
        held.set()  # type: ignore[attr-defined]
        if release.wait(30):  # type: ignore[attr-defined]
            (folder / "manifest.json").write_text("{}")


def test_an_artifact_that_another_process_makes_is_waited_for(job: Job) -> None:
    assert not job.made_by_another()  # nobody is at it
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_publish_when_told, args=(job, held, release))
    other.start()
    assert held.wait(30)
    assert holder(job.state / "lock") == f"process {other.pid} on {socket.gethostname()}"
    hurried = replace(job, minutes=0.001)
    with pytest.raises(ArtifactBusyError, match=f"process {other.pid} on"):
        hurried.made_by_another()
    threading.Timer(0.5, release.set).start()
    assert job.made_by_another()
    other.join()
    assert read_card(job.path)["attempts"] == 1
    assert not job.state.exists()
    assert not job.made_by_another()  # made, but before this was asked: make it anew


def test_work_of_a_process_that_dies_is_taken_over(job: Job) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_publish_when_told, args=(job, held, release))
    other.start()
    assert held.wait(30)
    threading.Timer(0.5, other.kill).start()
    assert not job.made_by_another()
    publish(job)
    assert read_card(job.path)["attempts"] == 2


def test_what_a_fork_made_whose_status_was_lost_is_not_made_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(_job: Job, folder: Path) -> None:
        made.append(folder)
        (folder / "manifest.json").write_text("{}")

    monkeypatch.setattr("diffusability.stages.make.make", make)
    asked = time.time()
    monkeypatch.setenv(LOST, str(asked))
    assert command._make(job)  # the fork failed: nothing is there
    assert not command._make(job)  # it has made the artifact
    assert len(made) == 1
    monkeypatch.setenv(LOST, str(time.time()))
    assert command._make(job)  # the artifact is older than this job: make it anew
    monkeypatch.setenv(LOST, str(asked))
    (job.path / "manifest.json").write_text("[]")
    assert command._make(job)  # the fork's artifact is damaged
    assert not command._restore(job)  # nothing is evicted any more
    assert len(made) == 3
    monkeypatch.delenv(LOST)
    assert command._make(job)  # no fork was lost
    assert command._restore(job)
    assert len(made) == 5


def test_time_that_passed_before_training_is_not_given_again(job: Job) -> None:
    assert job.minutes_left is None
    late = replace(job, minutes=60.0, started=time.time() - 45 * 60)
    assert late.minutes_left == pytest.approx(15, abs=0.1)
