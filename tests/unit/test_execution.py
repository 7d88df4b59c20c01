"""What says how a training is carried out reaches the job, and no fingerprint."""

import json
from typing import Any

import pytest

from diffusability.artifacts.job import Job
from diffusability.errors import StudyError
from diffusability.study.core.spec import TrainSpec
from diffusability.study.entries.backbone import SiTBackbone
from diffusability.study.entries.tokenizer import EncodingSpec
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.reading.load import merge, read_yaml
from diffusability.study.reading.resolve import resolve_study
from tests.conftest import REPOSITORY

SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")


def artifacts(over: dict[str, Any] | None = None) -> dict[str, Artifact]:
    """Return stage/name to artifact of the smoke study with `over` laid on top."""
    plan = Plan(resolve_study(merge(SMOKE, over or {}), "test"))
    return {f"{a.stage}/{a.name}": a for a in plan}


def changed_stages(over: dict[str, Any]) -> set[str]:
    """Return the stages whose artifacts get another fingerprint by `over`."""
    before, after = artifacts(), artifacts(over)
    assert before.keys() == after.keys()
    return {a.stage for key, a in after.items() if a.fingerprint != before[key].fingerprint}


@pytest.mark.parametrize(
    "entry",
    [
        {"train": {"accumulation": 4}},
        {"train": {"activation_checkpointing": True}},
        {"train": {"compile": True}},
        {"gpus": 8},
    ],
)
def test_execution_renames_nothing_and_reaches_the_job(entry: dict[str, Any]) -> None:
    over = {"backbones": {"sit-a": entry}}
    assert changed_stages(over) == set()
    diffusion = artifacts(over)["diffusion/conv-base/s0/sit-a/s0"]
    job = Job.from_json(diffusion.job())
    assert job.fingerprint == diffusion.fingerprint
    assert job.spec == artifacts()["diffusion/conv-base/s0/sit-a/s0"].spec
    spec = SiTBackbone.model_validate(job.options)
    train = {"accumulation": 1, "activation_checkpointing": False, "compile": False}
    default = {"gpus": 1, "train": train}
    assert spec.local() == job.local == merge(default, entry)
    assert spec.canonical() == job.spec


def test_an_encoder_carries_its_execution_too() -> None:
    over = {"encoders": {"glyph": {"train": {"accumulation": 2}}}}
    assert changed_stages(over) == set()
    assert artifacts(over)["encoder/glyph"].local["train"]["accumulation"] == 2


@pytest.mark.parametrize(
    "train", [{"precision": "bf16"}, {"clip": 1.0}, {"batch": 128}, {"betas": [0.9, 0.95]}]
)
def test_what_changes_the_weights_renames_them(train: dict[str, Any]) -> None:
    backbones = {name: {"train": train} for name in ("sit-a", "sit-b")}
    renamed = {"diffusion", "learned_fisher", "samples", "generation"}
    assert changed_stages({"backbones": backbones}) == renamed


def test_mirrored_latents_are_others_and_unmirrored_keep_their_name() -> None:
    assert changed_stages({"encoding": {"flip": False}}) == set()
    changed = changed_stages({"encoding": {"flip": True}})
    assert {"latents", "diffusion", "samples"} <= changed
    assert not {"dataset", "encoder", "tokenizer"} & changed
    # the canonical form from before the field existed: what is hashed must not grow
    assert EncodingSpec().canonical() == {"shard": 1024, "batch": 256, "dtype": "float32"}
    assert EncodingSpec(flip=True).canonical()["flip"] is True


def test_what_is_hashed_of_a_training_is_fixed() -> None:
    keys = {"steps", "batch", "lr", "betas", "weight_decay", "warmup", "schedule", "clip", "ema"}
    assert TrainSpec(steps=1).canonical().keys() == keys | {"precision"}
    assert json.loads(TrainSpec(steps=1).canonical_json()) == TrainSpec(steps=1).canonical()


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"backbones": {"sit-a": {"train": {"accumulation": 7}}}}, "accumulation 7 does not div"),
        ({"backbones": {"sit-a": {"gpus": 3}}}, r"gpus x train\.accumulation = 3 equal parts"),
        ({"bases": {"conv-f2d4": {"train": {"accumulation": 2}}}}, "not a sum over images"),
        ({"bases": {"conv-f2d4": {"train": {"compile": True}}}}, r"train\.compile must be false"),
    ],
)
def test_impossible_execution_is_refused_before_any_job(over: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        artifacts(over)
