"""Which bulk goes: what nothing left to make needs, then as much as a stated size asks for."""

import json
from pathlib import Path

import pytest

from diffusability.artifacts.card import evicted, read_card
from diffusability.artifacts.gc import find_evictable, remove
from diffusability.artifacts.inventory import damage
from diffusability.artifacts.job import Job
from diffusability.artifacts.lock import exclusive, holder
from diffusability.cli import main
from diffusability.errors import ArtifactError
from diffusability.study.load import load_study
from diffusability.study.plan import Artifact, Plan
from diffusability.study.schedule import BULK
from diffusability.study.stages import STAGES
from tests.conftest import REPOSITORY

STUDY = str(REPOSITORY / "studies" / "smoke.yaml")
SIZES = {"latents": 1000, "samples": 100}


@pytest.fixture
def plan(workplace: Path) -> Plan:
    """The smoke study, all of it finished, with bulk of SIZES bytes an artifact."""
    plan = Plan(load_study(STUDY))
    for artifact in plan:
        publish(artifact)
    return plan


def publish(artifact: Artifact) -> None:
    """Make an artifact of a few bytes."""
    job = Job.from_json(artifact.job())
    with job.writing() as folder:
        for name in STAGES[artifact.stage].outputs:
            (folder / name).write_text("{}")
        if artifact.stage == "samples":
            (folder / "shard-00000.safetensors").write_bytes(bytes(SIZES["samples"]))
    if artifact.stage == "latents":
        shard = Path("results/cache/latents", artifact.fingerprint, "shard-00000.safetensors")
        shard.parent.mkdir(parents=True)
        shard.write_bytes(bytes(SIZES["latents"]))


def unmake(plan: Plan, stage: str, tokenizer: str) -> Artifact:
    """Remove the card of the first artifact of a stage and a tokenizer."""
    artifact = next(a for a in plan.of_stage(stage) if a.labels["tokenizer"] == tokenizer)
    Path(artifact.card).unlink()
    return artifact


def fingerprints(plan: Plan, stages: tuple[str, ...] = BULK, keep: int | None = None) -> set[str]:
    return {item.path.name for item in find_evictable([plan], stages, keep)}


def of(plan: Plan, stage: str, tokenizer: str) -> set[str]:
    return {a.fingerprint for a in plan.of_stage(stage) if a.labels["tokenizer"] == tokenizer}


def test_what_is_needed_stays(plan: Plan) -> None:
    everything = {a.fingerprint for a in plan.of_stage(*BULK)}
    assert fingerprints(plan) == everything
    unmake(plan, "velocity", "conv-base")
    assert fingerprints(plan) == everything - of(plan, "latents", "conv-base")
    evaluation = unmake(plan, "generation", "conv-vf-glyph")
    assert fingerprints(plan, ("samples",)) == (
        of(plan, "samples", "conv-base")
        | of(plan, "samples", "conv-vf-glyph") - {evaluation.upstream["samples"].fingerprint}
    )


def test_a_study_that_needs_them_counts(plan: Plan) -> None:
    other = Plan(load_study(STUDY, {"metrics": {"velocity": {"split": "train"}}}))
    assert not {i.path.name for i in find_evictable([plan, other], ("latents",), None)}


def test_a_size_is_kept_first_of_what_is_needed(plan: Plan) -> None:
    unmake(plan, "velocity", "conv-base")
    unmake(plan, "velocity", "conv-vf-glyph")
    whole = 2 * 1000 + 4 * 100
    assert fingerprints(plan, keep=whole) == set()
    assert len(fingerprints(plan, keep=whole - 1)) == 1  # one set of samples
    samples = {a.fingerprint for a in plan.of_stage("samples")}
    assert fingerprints(plan, keep=2000) == samples
    later = of(plan, "latents", "conv-vf-glyph")
    assert fingerprints(plan, keep=1999) == samples | later
    assert fingerprints(plan, keep=0) == samples | later | of(plan, "latents", "conv-base")


def test_what_a_running_job_reads_stays(plan: Plan) -> None:
    reader = unmake(plan, "diffusion", "conv-base")
    (latents,) = find_evictable([plan], ("latents",), 0)[-1:]
    assert latents.path.name == reader.upstream["latents"].fingerprint
    lock = Job.from_json(reader.job()).state / "lock"
    with exclusive(lock, "it"):
        assert holder(lock)
        assert not remove(latents)
        assert latents.path.exists()
    assert not holder(lock)
    assert remove(latents)
    assert not latents.path.exists()


def test_evicted_samples_are_no_damage_and_know_their_job(plan: Plan) -> None:
    samples = plan.of_stage("samples")[0]
    folder = Path(samples.path)
    (item,) = [i for i in find_evictable([plan], BULK, None) if i.path == folder]
    assert remove(item)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["provenance.json", "samples.json", "samples.png"]
    )
    assert damage(folder) == []
    assert evicted(folder, read_card(folder)) == ["shard-00000.safetensors"]
    again = Job.from_card(folder, device="cpu")
    assert json.loads(samples.job()).items() <= {**vars(again), "path": samples.path}.items()
    assert again.fingerprint == samples.fingerprint
    publish(samples)
    assert evicted(folder, read_card(folder)) == []


def test_a_card_of_another_version_is_no_job(plan: Plan) -> None:
    folder = Path(plan.of_stage("samples")[0].path)
    card = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(card | {"version": 0}))
    with pytest.raises(ArtifactError, match="another version of stage samples"):
        Job.from_card(folder)


def test_the_command(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", "--configfile", STUDY, "--evict", "samples"]) == 0
    text = capsys.readouterr().out
    assert text.count("samples: all that needs them is there, made again on demand") == 4
    assert "4 folders" in text
    assert main(["gc", "--configfile", STUDY, "--keep", "1.2KiB", "--yes"]) == 0
    text = capsys.readouterr().out
    left = sum(p.stat().st_size for p in Path("results").rglob("shard-*.safetensors"))
    assert "removed results/" in text
    assert left <= 1.2 * 1024
    with pytest.raises(SystemExit):
        main(["gc", "--configfile", STUDY, "--keep", "much"])
    assert "not a size such as 500GiB" in capsys.readouterr().err
