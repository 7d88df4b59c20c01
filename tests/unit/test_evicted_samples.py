"""Evicted samples: a later job generates the very same again, and only those that it needs."""

import json
from pathlib import Path

import pytest

from diffusability.artifacts.card import read_card
from diffusability.artifacts.gc import find_evictable, remove
from diffusability.artifacts.inventory import is_done
from diffusability.artifacts.job import Job
from diffusability.stages import generation
from diffusability.study.plan import Artifact, Plan
from diffusability.study.schedule import BULK
from tests.unit.study_run import plan_of, run_plan

ONE = {"select": {"backbones": ["sit-a"], "tokenizers": ["conv-base"], "metrics": ["smoothness"]}}


@pytest.fixture
def plan(workplace: Path) -> Plan:
    """One tokenizer under one model, finished, and its bulk evicted."""
    plan = plan_of(ONE)
    run_plan(plan)
    return plan


def bulk() -> set[Path]:
    """Return the bulk files on disk."""
    return set(Path("results").rglob("shard-*.safetensors"))


def make_again(artifact: Artifact) -> dict:
    """Make an artifact although it is there, and return its measurements."""
    job = Job.from_json(artifact.job())
    with job.writing() as folder:
        generation.make(job, folder)
    return json.loads((job.path / "measurements.json").read_text())


def test_they_are_made_again_to_the_bit_when_and_where_needed(plan: Plan) -> None:
    (evaluation,), (samples,) = plan.of_stage("generation"), plan.of_stage("samples")
    values = json.loads(Path(evaluation.path, "measurements.json").read_text())
    outputs = read_card(Path(samples.path))["outputs"]
    contents = {path: path.read_bytes() for path in bulk()}
    for item in find_evictable([plan], BULK, None):
        assert remove(item)
    assert bulk() == set()
    assert all(is_done(artifact) for artifact in plan)

    more = plan_of({**ONE, "sampling": {"guidance": [1.0, 2.0], "evaluations": 2, "count": 40}})
    run_plan(more)  # a further scale: its own samples, neither latents nor the evicted ones
    assert {path.parts[-3] for path in bulk()} == {"cfg2"}

    assert make_again(evaluation) == values
    assert read_card(Path(samples.path))["outputs"] == outputs
    shared = bulk() & contents.keys()
    assert {path.parts[-3] for path in shared} == {"cfg1"}
    assert all(path.read_bytes() == contents[path] for path in shared)
