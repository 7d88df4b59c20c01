"""Snapshots: one training gives the weights, samples and costs of several."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from diffusability.errors import TrainingError, TrainingInterrupted
from diffusability.execution.estimates import kind_of
from diffusability.study.entries.backbone import DiffusionTraining
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.preflight.cost import Costs
from diffusability.study.reading.load import merge, read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.training.loop import train
from diffusability.training.run import Run, weights_name
from tests.conftest import REPOSITORY
from tests.unit.small_diffusion import assert_same, small_run

SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")


def plan(**sit_a: Any) -> Plan:
    """The smoke study with other options of the training of `sit-a`."""
    return Plan(resolve_study(merge(SMOKE, {"backbones": {"sit-a": {"train": sit_a}}}), "test"))


def samples(study: Plan, tokenizer: str = "conv-base", backbone: str = "sit-a") -> list[Artifact]:
    """The samples of one model of a plan."""
    wanted = {"tokenizer": tokenizer, "backbone": backbone}
    return [a for a in study.of_stage("samples") if wanted.items() <= a.labels.items()]


def run_of(folder: Path, steps: int = 9, minutes: float | None = None, **train: Any) -> Run:
    """A run of the tiny transformer at a constant rate, with its snapshots."""
    made = small_run(folder, minutes=minutes, steps=steps, schedule="constant", warmup=2, **train)
    return Run(**{**vars(made), "snapshots": made.spec.snapshots})


def test_a_snapshot_is_the_end_of_a_training_of_its_length(tmp_path: Path) -> None:
    train(run_of(tmp_path / "long", snapshots=[3, 5]))
    for step in (3, 5):
        short = train(run_of(tmp_path / str(step), steps=step)).averaged.state_dict()
        assert_same(load_file(tmp_path / "long" / weights_name(step)), dict(short))


def test_interrupted_between_snapshots_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = train(run_of(tmp_path / "whole", snapshots=[3, 5]))
    for step in range(1, 9):
        with pytest.raises(TrainingInterrupted, match=rf"saved step {step} of 9"):
            train(run_of(tmp_path / "parts", minutes=0.0, snapshots=[3, 5]))
        assert (tmp_path / "parts" / weights_name(3)).exists() == (step >= 3)
    resumed = train(run_of(tmp_path / "parts", minutes=0.0, snapshots=[3, 5]))
    assert_same(dict(resumed.averaged.state_dict()), dict(whole.averaged.state_dict()))
    for step in (3, 5):
        files = (tmp_path / folder / weights_name(step) for folder in ("parts", "whole"))
        first, second = (file.read_bytes() for file in files)
        assert first == second


def test_a_lost_snapshot_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    for _ in range(4):
        with pytest.raises(TrainingInterrupted):
            train(run_of(tmp_path, minutes=0.0, snapshots=[3]))
    (tmp_path / weights_name(3)).unlink()
    with pytest.raises(
        TrainingError, match=rf"model-000003.safetensors is gone .* rm -r {tmp_path}"
    ):
        train(run_of(tmp_path, snapshots=[3]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"snapshots": [3, 12]}, "step 12 is after the last of 10 steps"),
        ({"snapshots": [3, 3]}, "duplicate step in"),
        ({"snapshots": [3], "schedule": "cosine"}, "need schedule constant"),
        ({"snapshots": [0]}, "greater than 0"),
    ],
)
def test_snapshots_that_cannot_be_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DiffusionTraining(steps=10, **options)


def test_the_last_step_is_always_a_snapshot_named_or_not() -> None:
    assert DiffusionTraining(steps=10, snapshots=[10, 7, 3]).snapshots == (3, 7)
    cosine = DiffusionTraining(steps=10, snapshots=[10], schedule="cosine")
    assert "snapshots" not in cosine.canonical()
    named, unnamed = plan(snapshots=[30]), plan()
    assert [a.path for a in named] == [a.path for a in unnamed]


def test_one_model_has_samples_and_measurements_at_every_snapshot() -> None:
    study = plan(snapshots=[10, 20])
    found = samples(study)
    assert [a.spec.get("step") for a in found] == [10, 20, None]
    assert [Path(a.path).parent.name for a in found] == [
        *("guidance1-step10", "guidance1-step20", "guidance1"),
    ]
    assert len({a.upstream["diffusion"].path for a in found}) == 1
    assert len({kind_of(a) for a in found}) == 1  # one timing tells how long all take
    judged = {a.upstream["samples"].path for a in study.of_stage("generation")}
    assert judged >= {a.path for a in found}
    for artifact in found:  # as a rule finds it by its wildcards
        labels = {**artifact.labels, "fingerprint": artifact.fingerprint}
        assert study.find("samples", labels) is artifact


def test_snapshots_touch_no_artifact_of_other_backbones() -> None:
    def others(study: Plan) -> set[str]:
        return {a.path for a in study if a.labels.get("backbone") != "sit-a"}

    assert others(plan(snapshots=[10])) == others(plan())


def test_snapshots_cost_one_training_their_files_and_their_samples() -> None:
    def cost(study: Plan, stage: str) -> tuple[int, int]:
        own = [a for a in study.of_stage(stage) if a.labels["backbone"] == "sit-a"]
        works = [Costs(study.study).work(a) for a in own]
        return sum(w.macs or 0 for w in works), sum(w.bytes for w in works)

    plain, more = plan(), plan(snapshots=[10, 20])
    macs, kept = cost(plain, "diffusion")
    assert cost(more, "diffusion") == (macs, 3 * kept)
    for stage in ("samples", "generation"):
        macs, kept = cost(plain, stage)
        assert cost(more, stage) == (3 * macs, 3 * kept)
