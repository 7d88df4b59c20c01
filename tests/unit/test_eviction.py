"""Which bulk goes: what nothing left to make needs, then as much as a stated size asks for."""

from pathlib import Path

import pytest

from diffusability.artifacts.bulk import evicted, marker
from diffusability.artifacts.card import read_card
from diffusability.artifacts.gc import find_evictable, remove
from diffusability.artifacts.inventory import damage, evicted_inputs
from diffusability.artifacts.job import Job
from diffusability.artifacts.lock import exclusive, holder
from diffusability.cli import main
from diffusability.errors import ArtifactError
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import BULK, STAGES
from diffusability.study.reading.load import load_study
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
            (folder / name).write_text('{"images": 3, "images_per_shard": 3}')
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


def test_what_a_job_restores_stays(plan: Plan) -> None:
    for stage in BULK:
        artifact = plan.of_stage(stage)[0]
        items = find_evictable([plan], (stage,), 0)
        (item,) = [i for i in items if i.path.name == artifact.fingerprint]
        with exclusive(Job.from_json(artifact.job()).state / "lock", "it"):
            assert not remove(item)
        assert evicted(Path(artifact.path), read_card(Path(artifact.path))) == []
        assert remove(item)
        assert evicted(Path(artifact.path), read_card(Path(artifact.path)))


def test_evicted_samples_are_no_damage_and_come_back_alone(plan: Plan) -> None:
    samples = plan.of_stage("samples")[0]
    folder = Path(samples.path)
    (item,) = [i for i in find_evictable([plan], BULK, None) if i.path == folder]
    marker(folder).write_text("{}")
    assert remove(item)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["provenance.json", "samples.json", "samples.png"]
    )
    assert damage(folder) == []
    assert evicted(folder, read_card(folder)) == ["shard-00000.safetensors"]
    held = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    with Job.from_json(samples.job()).restoring() as again:
        for name in STAGES["samples"].outputs:
            (again / name).write_text("another")
        (again / "shard-00000.safetensors").write_bytes(bytes(SIZES["samples"]))
    assert evicted(folder, read_card(folder)) == []
    assert damage(folder) == []
    assert marker(folder).exists()
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in held} == held
    assert not Job.from_json(samples.job()).state.exists()


def test_samples_of_other_bits_get_their_hash_on_the_card(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    samples = plan.of_stage("samples")[0]
    folder, shard = Path(samples.path), Path(samples.path, "shard-00000.safetensors")
    before = read_card(folder)
    shard.unlink()
    with Job.from_json(samples.job()).restoring() as again:
        (again / shard.name).write_bytes(b"noise")
    assert "shard-00000.safetensors: other bits than before" in caplog.text
    assert damage(folder) == []
    after = read_card(folder)
    assert after["outputs"][shard.name]["bytes"] == 5
    assert {k: v for k, v in after.items() if k != "outputs"} == {
        k: v for k, v in before.items() if k != "outputs"
    }


def test_a_failed_restore_changes_nothing(plan: Plan) -> None:
    samples = plan.of_stage("samples")[0]
    folder = Path(samples.path)
    (folder / "shard-00000.safetensors").unlink()
    held = sorted(folder.iterdir())
    job = Job.from_json(samples.job())
    missing = r"shard-00000\.safetensors was not made again"
    with pytest.raises(ArtifactError, match=missing), job.restoring():
        pass
    with pytest.raises(RuntimeError), job.restoring():
        raise RuntimeError
    assert sorted(folder.iterdir()) == held
    Path(samples.card).unlink()
    with pytest.raises(ArtifactError, match="no such artifact"), job.restoring():
        pass


def test_what_a_job_reads_is_what_its_inputs_lack(plan: Plan) -> None:
    for item in find_evictable([plan], BULK, None):
        assert remove(item)
    for artifact in plan:
        wanted = [a for a in artifact.upstream.values() if a.stage in BULK]
        assert evicted_inputs(artifact) == wanted
    reader = plan.of_stage("velocity")[0]
    Path(reader.upstream["latents"].card).unlink()  # made anew, with its files
    assert evicted_inputs(reader) == []


def test_evicting_removes_nothing_that_cannot_be_made_again_alone(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    of_no_study = Path("results/tokenizer/older/s0/000000000000")
    of_no_study.mkdir(parents=True)
    (of_no_study / "provenance.json").write_text("{}")
    assert main(["gc", "--configfile", STUDY]) == 0
    assert str(of_no_study) in capsys.readouterr().out
    assert main(["gc", "--configfile", STUDY, "--evict", "--yes"]) == 0
    assert str(of_no_study) not in capsys.readouterr().out
    assert of_no_study.exists()


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
