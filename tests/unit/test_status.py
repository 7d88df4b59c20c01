"""What a person reads of a study that runs: how far it is, what failed, why something is made."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from diffusability.artifacts.inventory import state_of
from diffusability.artifacts.job import Job
from diffusability.artifacts.lock import exclusive
from diffusability.artifacts.progress import Progress, read_progress, write_progress
from diffusability.artifacts.status import activities, duration, status_text
from diffusability.artifacts.why import explain
from diffusability.cli import main
from diffusability.errors import StudyError, TrainingError, TrainingInterrupted
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.reading.load import load_study
from diffusability.training import progress as training_progress
from diffusability.training.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import REPOSITORY
from tests.unit.test_cost import chain, publish

STUDY = str(REPOSITORY / "studies" / "smoke.yaml")


@pytest.fixture
def plan(workplace: Path) -> Plan:
    """The smoke study, of which nothing is there."""
    return Plan(load_study(STUDY))


def first(plan: Plan, stage: str) -> Artifact:
    return plan.of_stage(stage)[0]


def write_log(artifact: Artifact, text: str) -> Path:
    """Write the log of an artifact's job where its rule does."""
    log = Path("results/logs", STAGES[artifact.stage].rule, f"x.s0.{artifact.fingerprint}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    return log


def write_checkpoint(artifact: Artifact, step: int) -> None:
    history = [{"step": step - 1, "learning_rate": 1e-3, "loss": 0.25, "extra": 7.0}]
    state = state_of(artifact)
    state.mkdir(parents=True, exist_ok=True)
    save_checkpoint(state, Checkpoint(step, {"w": torch.zeros(3)}, {"history": history}))


def test_nothing_was_begun(plan: Plan) -> None:
    assert status_text(plan) == "0 of 42 artifacts are done; nothing runs"
    publish(first(plan, "dataset"), 1.0)
    write_log(first(plan, "dataset"), "12:00:00 dataset: wrote it\n")
    write_log(first(plan, "encoder"), "")  # just starting
    assert status_text(plan) == "1 of 42 artifacts are done; nothing runs"


def test_a_training_that_runs(plan: Plan) -> None:
    tokenizer = first(plan, "tokenizer")
    minute_ago = time.time() - 60
    progress = Progress("running", 12, 30, "loss 0.412", left=600, written=minute_ago)
    write_progress(state_of(tokenizer), progress)
    with exclusive(state_of(tokenizer) / "lock", "it"):
        (activity,) = activities(plan)
        text = status_text(plan)
    assert activity.kind == "running"
    assert activity.step is not None
    assert (activity.step.step, activity.step.steps) == (12, 30)
    assert activity.step.left == pytest.approx(540, abs=10)  # it was written a minute ago
    assert "0 of 42 artifacts are done, 1 running" in text
    assert "  tokenizer conv-base/s0\n    step 12 of 30 (40%), loss 0.412, " in text
    assert f"process {os.getpid()} on" in text


def test_a_restore_that_runs(plan: Plan) -> None:
    samples = first(plan, "samples")
    publish(samples, 1.0)
    assert list(activities(plan)) == []
    write_progress(state_of(samples), Progress("running", 1, 2))
    with exclusive(state_of(samples) / "lock", "it"):
        assert [(a.artifact, a.kind) for a in activities(plan)] == [(samples, "running")]
    assert list(activities(plan)) == []


def test_a_checkpoint_tells_where_the_job_does_not(plan: Plan) -> None:
    diffusion = first(plan, "diffusion")
    write_checkpoint(diffusion, 20)
    (activity,) = activities(plan)
    assert activity.kind == "interrupted"
    assert str(activity.step) == "step 20 of 30 (67%), loss 0.25"
    write_progress(state_of(diffusion), Progress("running", 25, 30, "loss 0.2"))  # killed there
    (activity,) = activities(plan)
    assert activity.kind == "interrupted"
    assert str(activity.step) == "step 25 of 30 (83%), loss 0.2"
    (state_of(diffusion) / "checkpoint.safetensors").write_bytes(save({})[:5])  # cut in half
    (activity,) = activities(plan)
    assert str(activity.step).startswith("step 25")


def test_how_jobs_ended(plan: Plan) -> None:
    tokenizer, diffusion, velocity = (
        first(plan, s) for s in ("tokenizer", "diffusion", "velocity")
    )
    write_checkpoint(tokenizer, 20)
    write_log(tokenizer, "any words\n")
    write_progress(state_of(tokenizer), Progress("interrupted", 20, 30))
    write_log(diffusion, "any words\n")
    write_progress(state_of(diffusion), Progress("waiting", waits_for="1 of 2 GPUs"))
    log = write_log(
        velocity, "\n".join(f"line {k}" for k in range(9)) + f"\nerror: {'bad ' * 40}\n"
    )
    text = status_text(plan)
    assert ", 1 waiting, 1 interrupted, 1 failed" in text.splitlines()[0]
    assert f"failed\n  velocity conv-base/s0\n    {log}\n    | line 5\n" in text
    assert "line 4" not in text
    assert "| error: bad bad" in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(log) not in line)


def test_a_failed_job_is_not_taken_for_an_interrupted_one(plan: Plan) -> None:
    tokenizer = first(plan, "tokenizer")
    write_checkpoint(tokenizer, 20)
    job = Job.from_json(tokenizer.job())
    with pytest.raises(TrainingError), job.writing():
        raise TrainingError("the loss is not finite")
    assert [activity.kind for activity in activities(plan)] == ["failed"]
    with pytest.raises(TrainingInterrupted), job.writing():
        raise TrainingInterrupted("time is up")
    (activity,) = activities(plan)
    assert (activity.kind, activity.step and activity.step.step) == ("interrupted", 20)


def test_a_training_writes_how_far_it_is(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_progress, "LINE_EVERY_SECONDS", 0.0)
    state = state_of(first(plan, "tokenizer"))
    progress = training_progress.Progress("x", 30, 10, state)
    progress.advance({"loss": 0.25, "kl": 3.0})
    written = read_progress(state)
    assert written is not None
    assert (written.state, written.step, written.steps) == ("running", 11, 30)
    assert written.loss == "loss 0.25"
    assert written.left is not None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5.4, "5 s"), (119, "119 s"), (120, "2.0 min"), (7200, "2.0 h"), (172_800, "2.0 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_why_of_what_is_missing(plan: Plan) -> None:
    diffusion = first(plan, "diffusion")
    chain(diffusion.upstream["latents"], 5.0)
    text = " ".join(explain(plan, diffusion.path).split())
    assert text.startswith(f"to make {diffusion.path} by train_diffusion from ")
    assert "latents conv-base/s0 (there)" in text
    assert text.endswith("no artifact of this name exists yet")
    publish(diffusion, 5.0)
    other = Plan(load_study(STUDY, {"backbones": {"sit-a": {"depth": 3}}}))
    changed = explain(other, first(other, "diffusion").path)
    assert f"differs from {diffusion.fingerprint}: depth 2 -> 3" in " ".join(changed.split())
    assert all(len(line) <= 80 for line in changed.splitlines() if "results/" not in line)


def test_why_of_what_is_there(plan: Plan) -> None:
    encoder = first(plan, "encoder")
    publish(encoder, 300.0, attempts=2, device="a chip")
    card = json.loads(Path(encoder.card).read_text())
    Path(encoder.card).write_text(json.dumps(card | {"started": 0.0}))
    for name in (
        encoder.path,
        f"./{encoder.path}",
        f"{encoder.path}/model.safetensors",
        encoder.name,
        encoder.fingerprint,
    ):
        text = explain(plan, name)
        assert text.startswith(f"done    {encoder.path}\n")
        assert "by train_encoder in 5.0 min at attempt 2 on a chip" in text
    changed = Plan(load_study(STUDY, {"encoders": {"glyph": {"width": 9}, "judge": {"width": 9}}}))
    text = explain(changed, f"{encoder.path}/model.safetensors")
    assert "unused" in text
    assert "width 8 -> 9" in text


def test_a_whole_name_is_not_the_start_of_others() -> None:
    default = Plan(load_study(REPOSITORY / "config.yaml"))
    assert "conv-lcr-weak" not in explain(default, "conv-lcr")
    assert "results/tokenizer/conv-lcr-weak/" in explain(default, "conv-lcr-w")
    assert "results/tokenizer/conv-lcr/" in explain(default, "conv-lc")


def test_why_of_tables(plan: Plan) -> None:
    text = explain(plan, "results/tables/smoke/measurements.csv")
    assert "to make results/tables/smoke/measurements.csv" in text
    assert "from 26 measurements, 26 still to be made:" in text
    for artifact in plan.measured:
        publish(artifact, 1.0)
    assert "from 26 measurements, all done" in explain(
        plan, "results/tables/smoke/measurements.csv"
    )


def test_why_of_nothing(plan: Plan) -> None:
    with pytest.raises(StudyError, match="conv-bass: no artifact of this study"):
        explain(plan, "conv-bass")


def test_the_commands_answer_without_torch(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--configfile", STUDY]) == 0
    assert "nothing runs" in capsys.readouterr().out
    code = (
        "import sys; from diffusability.cli import main; "
        f"main(['status', '--configfile', {STUDY!r}]); main(['why', '--configfile', {STUDY!r}]); "
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
