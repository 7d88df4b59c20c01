"""Evicted bulk: who needs it says how it is restored, and it is restored to the very same bits."""

import json
import shlex
from pathlib import Path

import pytest

from diffusability.artifacts.bulk import restore_command
from diffusability.artifacts.card import read_card
from diffusability.artifacts.gc import find_evictable, remove
from diffusability.artifacts.inventory import is_done
from diffusability.artifacts.job import Job
from diffusability.errors import ArtifactError
from diffusability.stages import command
from diffusability.stages.make import make
from diffusability.study.core import commands
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import BULK, RESTORED
from tests.unit.study_run import plan_of, run_plan

ONE = {"select": {"backbones": ["sit-a"], "tokenizers": ["conv-base"], "metrics": ["smoothness"]}}


@pytest.fixture
def plan(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """One tokenizer under one model, finished."""
    monkeypatch.setenv(commands.VARIABLE, "{}")  # the default study in this folder
    plan = plan_of(ONE)
    run_plan(plan)
    return plan


def bulk() -> set[Path]:
    """Return the bulk files on disk."""
    return set(Path("results").rglob("shard-*.safetensors"))


def evict(plan: Plan) -> dict[Path, bytes]:
    """Evict all bulk of the plan and return what it was."""
    contents = {path: path.read_bytes() for path in bulk()}
    for item in find_evictable([plan], BULK, None):
        assert remove(item)
    assert bulk() == set()
    return contents


def make_again(artifact: Artifact) -> list:
    """Make an artifact although it is there, and return its measurements."""
    job = Job.from_json(artifact.job())
    with job.writing() as folder:
        make(job, folder)
    return json.loads((job.path / "measurements.json").read_text())


@pytest.mark.parametrize(
    ("reader", "read", "files"), [("generation", "samples", 1), ("smoothness", "latents", 2)]
)
def test_it_is_restored_to_the_bit_by_its_own_job(
    plan: Plan, reader: str, read: str, files: int
) -> None:
    (measured,), (source,) = plan.of_stage(reader), plan.of_stage(read)
    values = json.loads(Path(measured.path, "measurements.json").read_text())
    card = Path(source.card).read_bytes()
    contents = evict(plan)
    assert all(is_done(artifact) for artifact in plan)

    with pytest.raises(ArtifactError) as refused:  # and does not make it by itself
        make_again(measured)
    asked = f"snakemake -c1 -f {source.path}/{RESTORED}"
    assert restore_command(Path(source.path)) == asked
    assert str(refused.value) == (
        f"{source.path}: {files} of its {files} bulk files were evicted or altered; "
        f"restore them with: {asked}"
    )
    assert bulk() == set()

    assert command.run("", [read, "--restore", "--job", source.job(), "--device", "cpu"]) == 0
    assert bulk() == {path for path in contents if source.fingerprint in path.parts}
    assert all(path.read_bytes() == contents[path] for path in bulk())
    assert Path(source.card).read_bytes() == card
    assert Path(shlex.split(asked)[-1]).exists()
    assert make_again(measured) == values


def test_a_further_scale_needs_neither_latents_nor_the_evicted_samples(plan: Plan) -> None:
    evict(plan)
    run_plan(plan_of({**ONE, "sampling": {"guidance": [1.0, 2.0], "evaluations": 2, "count": 40}}))
    assert {path.parts[-3] for path in bulk()} == {"guidance2"}


def test_an_altered_shard_of_latents_is_encoded_again(plan: Plan) -> None:
    (measured,), (latents,) = plan.of_stage("smoothness"), plan.of_stage("latents")
    shard, other = sorted(Path("results/cache/latents").rglob("*.safetensors"))
    untouched = other.stat().st_mtime_ns
    good = shard.read_bytes()
    shard.unlink()  # it is mapped: its file is replaced, not written into
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"was altered .*snakemake -c1 -f .*/restored\.json"):
        make_again(measured)
    assert command.run("", ["latents", "--restore", "--job", latents.job(), "--device", "cpu"]) == 0
    assert shard.read_bytes() == good
    assert other.stat().st_mtime_ns == untouched


def test_what_was_never_made_cannot_be_restored(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    (samples,) = plan.of_stage("samples")
    Path(samples.card).unlink()
    assert command.run("", ["samples", "--restore", "--job", samples.job()]) == 1
    assert f"{samples.path}: no such artifact" in capsys.readouterr().err
    assert read_card(Path(plan.of_stage("latents")[0].path))
