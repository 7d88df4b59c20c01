"""What a plan costs: counted by hand, timed where something of the kind is finished."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffusability.execution.estimates import Estimates, StageCost, kind_of
from diffusability.execution.plan_table import plan_table
from diffusability.execution.this_machine import START_UP, ThisMachine, measure
from diffusability.metrics import sample_fisher
from diffusability.study.entries.dataset import FolderDataset
from diffusability.study.entries.pixel_dataset import DigitsDataset, ShapesDataset
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.preflight.cost import COMPARED, DECODED, DISTANCES, EAGER, SUSTAINED, Costs
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY

SMOKE = REPOSITORY / "studies" / "smoke.yaml"
LATENT = 256 * 32  # numbers of an f16d32 latent of 256 pixels


def imagenet() -> Plan:
    return Plan(load_study(REPOSITORY / "studies" / "imagenet256.yaml"))


def smoke(**overrides: Any) -> Plan:
    return Plan(load_study(SMOKE, overrides))


def of(plan: Plan, stage: str, **labels: str) -> Artifact:
    """Return the first artifact of a stage with these labels."""
    return next(a for a in plan.of_stage(stage) if labels.items() <= a.labels.items())


def stage_of(plan: Plan, stage: str) -> StageCost:
    return next(cost for cost in Estimates(plan).stages() if cost.stage == stage)


def publish(artifact: Artifact, seconds: float, attempts: int = 1, device: str = "a chip") -> None:
    """Write the card of a finished artifact without its outputs."""
    card = json.loads(artifact.job()) | {"fingerprint": artifact.fingerprint, "outputs": {}}
    machine = {"packages": {}, "system": "Linux", "device": device, "commit": None}
    card |= {"seconds": seconds, "attempts": attempts, "machine": machine, "started": 0.0}
    card |= {"peak_memory_bytes": 0}
    Path(artifact.path).mkdir(parents=True, exist_ok=True)
    Path(artifact.card).write_text(json.dumps(card))


def chain(artifact: Artifact, seconds: float) -> None:
    """Publish an artifact and all that it is made from."""
    for upstream in artifact.upstream.values():
        chain(upstream, seconds)
    publish(artifact, seconds)


def test_images_of_a_dataset() -> None:
    digits = DigitsDataset(kind="digits").counts()
    assert (digits.train, digits.val, digits.of("all")) == (1438, 359, 1797)
    assert ShapesDataset(kind="shapes", train=7, val=3).counts().of("all") == 10
    folder = FolderDataset(kind="folder", path="x").counts()
    assert (folder.train, folder.val) == (1_281_167, 50_000)


def test_training_of_a_backbone_is_three_passes_an_image() -> None:
    plan = imagenet()
    costs = Costs(plan.study)
    work = costs.work(of(plan, "diffusion", backbone="lightningdit-xl"))
    assert work.macs == pytest.approx(3 * 100_000 * 1024 * 118.4e9, rel=5e-3)
    assert work.speed == "bf16"
    # metrics and latents are computed without TF32
    reference = costs.work(of(plan, "latents", tokenizer="conv-f16d32-baseline"))
    assert reference.speed == "full fp32"
    assert reference.seconds == pytest.approx(2 * reference.macs / 40e12)
    assert work.seconds == pytest.approx(2 * work.macs / SUSTAINED["bf16"])
    assert work.bytes == pytest.approx(4 * 675.26e6, rel=1e-3)
    # published: 10 hours for 80,000 such steps on 8 GPUs; another: 4.5 hours on 32
    hours = work.seconds / 3600 * 0.8
    assert 80 < hours < 4.5 * 32


def test_tokenizers_of_the_paper() -> None:
    plan = imagenet()
    costs = Costs(plan.study)
    plain = costs.work(of(plan, "tokenizer", tokenizer="conv-f16d32-baseline"))
    # 195 G over the autoencoder's three passes, VGG-16's 20 G at 256 px three times, and once more
    # for the adaptive factor of the GAN, and nine times 3.1 G of discriminator
    seen = 80_073 * 256
    assert plain.macs is not None
    assert plain.macs / seen == pytest.approx(3 * 195e9 + 4 * 20e9 + 9 * 3.1e9, rel=0.01)
    aligned = costs.work(of(plan, "tokenizer", tokenizer="conv-f16d32-mcos-mael"))
    assert aligned.macs is not None
    # MAE-L's features, and for the adaptive factor VGG and the decoder's 126 G back once more
    assert (aligned.macs - plain.macs) / seen == pytest.approx(81e9 + 20e9 + 126e9, rel=0.02)
    latents = costs.work(of(plan, "latents", tokenizer="conv-f16d32-baseline"))
    assert latents.bytes == 2 * 1_331_167 * LATENT * 2 * 2  # mirrored too; two moments, two bytes
    longer = plan.study.encoding.model_copy(update={"val_means": "float32"})
    study = plan.study.model_copy(update={"encoding": longer})
    found = Costs(study).work(of(plan, "latents", tokenizer="conv-f16d32-baseline"))
    assert found.bytes - latents.bytes == 50_000 * LATENT * 2  # means of the validation images
    assert latents.macs == pytest.approx(2 * 1_331_167 * 69e9, rel=0.01)


def test_guidance_doubles_sampling() -> None:
    plan = imagenet()
    costs = Costs(plan.study)
    labels = {"tokenizer": "conv-f16d32-baseline", "backbone": "sit-b"}
    plain, guided = (
        costs.work(of(plan, "samples", **labels, guidance=scale)) for scale in ("1", "1.5")
    )
    assert plain.macs is not None
    assert guided.macs is not None
    assert guided.macs - plain.macs == pytest.approx(50_000 * 50 * 23.0e9, rel=5e-3)
    assert plain.bytes == 50_000 * 3 * 256 * 256


@pytest.mark.usefixtures("workplace")
def test_latents_of_the_paper() -> None:
    tasks = Estimates(imagenet()).tasks()
    whole = sum(task.bytes for artifact, task in tasks.items() if artifact.stage == "latents")
    unit = 2 * 1_331_167 * LATENT * 4  # with the mirrored images
    assert whole == (43 + 21) * unit + 22 * 2 * unit


@pytest.mark.usefixtures("workplace")
def test_counted_until_something_of_the_kind_is_finished() -> None:
    plan = smoke()
    before = stage_of(plan, "tokenizer")
    assert (before.jobs, before.done, before.counted, before.timed) == (2, 0, 2, 0)
    assert before.source == "counted"
    chain(of(plan, "tokenizer", tokenizer="conv-base"), 100.0)
    after = stage_of(plan, "tokenizer")
    # the other tokenizer differs in its regularizer and in what it is aligned with
    assert (after.done, after.counted, after.timed, after.seconds) == (1, 0, 1, 100.0)
    assert after.source == "1 timed on a chip"
    larger = smoke(bases={"conv-f2d4": {"train": {"steps": 60}}})
    assert stage_of(larger, "tokenizer").timed == 0


@pytest.mark.usefixtures("workplace")
def test_what_counts_as_one_kind() -> None:
    plan = smoke()
    base, aligned = plan.of_stage("tokenizer")
    assert kind_of(base) == kind_of(aligned)
    first, second = of(plan, "diffusion", backbone="sit-a"), of(plan, "diffusion", backbone="sit-b")
    assert kind_of(first) != kind_of(second)
    other_seed = smoke(select={"seeds": [5]})
    assert kind_of(of(other_seed, "diffusion", backbone="sit-a")) == kind_of(first)
    other_data = smoke(datasets={"digits": {"size": 16}})
    assert kind_of(other_data.of_stage("tokenizer")[0]) != kind_of(base)


@pytest.mark.usefixtures("workplace")
def test_time_is_that_of_all_gpus_of_a_job() -> None:
    plan = smoke()
    done = of(plan, "diffusion", backbone="sit-a")
    for artifact in done.upstream.values():
        chain(artifact, 1.0)
    publish(done, 100.0)
    card = json.loads(Path(done.card).read_text())
    Path(done.card).write_text(json.dumps(card | {"local": {"gpus": 4}}))
    again = smoke(select={"seeds": [7]}, backbones={"sit-a": {"gpus": 2}})
    task = Estimates(again).tasks()[of(again, "diffusion", backbone="sit-a")]
    assert (task.seconds, task.gpus) == (4 * 100.0 / 2, 2)


@pytest.mark.usefixtures("workplace")
def test_a_resumed_artifact_is_not_timed() -> None:
    plan = smoke()
    base = of(plan, "tokenizer", tokenizer="conv-base")
    chain(base, 100.0)
    publish(base, 3.0, attempts=2)  # its last attempt alone took three seconds
    assert stage_of(plan, "tokenizer").timed == 0


@pytest.mark.usefixtures("workplace")
def test_the_table() -> None:
    plan = smoke()
    text = plan_table(plan)
    assert "42 jobs, 42 to do" in text
    assert "80 TFLOP/s in fp32" in text
    assert "timed" not in text.splitlines()[3]
    assert "missing" not in text
    for artifact in plan:
        publish(artifact, 60.0)
    finished = plan_table(plan)
    assert "42 jobs, 0 to do: 0.0 GPU-hours counted" in finished
    (row,) = (line for line in finished.splitlines() if line.startswith("diffusion "))
    assert row.split() == ["diffusion", "4", "4", "0"]


def test_cores_that_decode_image_files_for_a_gpu() -> None:
    plan = imagenet()
    rate, artifact = Estimates(plan).decoding()
    assert artifact.stage == "latents"  # a training works longer on an image than an encoder does
    sizes = [entry.cost(3, 256).encoder.macs for entry in plan.study.tokenizers.values()]
    assert rate == pytest.approx(SUSTAINED["full fp32"] / (2 * min(sizes)))
    cores = int(rate // DECODED) + 1
    assert f"{rate:,.0f} in a second (latents {artifact.name}): {cores} cores" in plan_table(plan)
    assert Estimates(smoke()).decoding() is None  # its images are in memory
    training = Costs(plan.study).work(of(plan, "tokenizer", tokenizer="conv-f16d32-baseline"))
    train = plan.study.tokenizers["conv-f16d32-baseline"].train
    assert training.decoded == train.steps * train.batch


def test_a_training_that_is_not_compiled_is_slower() -> None:
    def seconds(**train: bool) -> float:
        plan = smoke(backbones={"sit-a": {"train": train}})
        model = of(plan, "diffusion", backbone="sit-a")
        found = Costs(plan.study).work(model).seconds
        assert found is not None
        return found

    assert seconds() == pytest.approx(seconds(compile=True) / EAGER)


def test_the_table_names_what_is_missing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(workplace))
    lines = plan_table(imagenet()).splitlines()
    assert (
        sum(line.startswith("missing: weights of ") for line in lines) == 15 + 1 + 5
    )  # vision models, Inception, the others of FDr6
    assert any(line.startswith("missing: images of `imagenet`: not at data/") for line in lines)
    assert any("per class" in line and line.startswith("images:") for line in lines)


def test_statistics_of_latents_take_time_of_cores() -> None:
    plan = imagenet()
    costs = Costs(plan.study)
    velocity = costs.work(of(plan, "velocity", tokenizer="conv-f16d32-baseline"))
    assert velocity.core_seconds == pytest.approx(192, rel=0.01)  # as measured at this size
    wide = costs.work(of(plan, "velocity", tokenizer="conv-f16d64-baseline"))
    assert wide.core_seconds == pytest.approx(2 * velocity.core_seconds)
    uniformity = costs.work(of(plan, "uniformity", tokenizer="conv-f16d32-baseline"))
    assert uniformity.core_seconds == pytest.approx(10 * 163, rel=0.03)  # a repeat takes 152 to 175
    assert costs.work(of(plan, "dataset")).core_seconds == pytest.approx(27 * 60, rel=0.02)
    found = costs.work(of(plan, "fisher", tokenizer="conv-f16d32-baseline")).core_seconds
    assert found == pytest.approx(27, rel=0.2)  # as measured of 5,000 images at this size
    (row,) = (cost for cost in Estimates(plan).stages() if cost.stage == "smoothness")
    assert (row.source, row.counted_seconds) == ("counted, of a core", 0.0)


@pytest.mark.parametrize(
    ("file", "measured"), [("config.yaml", 1.1), ("studies/fashion.yaml", 8.3)]
)
def test_fisher_information_takes_the_time_that_was_measured(file: str, measured: float) -> None:
    plan = Plan(load_study(REPOSITORY / file))
    assert (COMPARED, DISTANCES) == (sample_fisher.IMAGES, sample_fisher._EMPIRICAL_IMAGES)
    (seconds,) = {Costs(plan.study).work(a).core_seconds for a in plan.of_stage("fisher")}
    assert seconds == pytest.approx(measured, rel=0.2)


def test_a_machine_without_gpu_by_hand() -> None:
    plan = smoke()
    here = ThisMachine(rate=2e9, cores=4)
    macs = Costs(plan.study).work(of(plan, "diffusion", backbone="sit-a")).macs
    assert macs is not None
    task = Estimates(plan, here).tasks()[of(plan, "diffusion", backbone="sit-a")]
    assert task.seconds == pytest.approx(START_UP + macs / 1e9)
    text = plan_table(plan, here=here)
    assert "on this machine, without a GPU: about " in text
    assert "with `-c4`" in text
    assert " 0.0 s" not in text
    assert "H100" not in text
    found = measure()
    assert found.rate > 1e8
    assert found.cores >= 1


def test_files_of_a_folder_are_counted(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    names = ("train/a/1.png", "train/a/2.JPEG", "train/b/x/3.png", "val/a/4.png", "train/a/.5.png")
    for name in names:
        path = workplace / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    entry = {"kind": "folder", "path": "images", "content": "some", "num_classes": 2}
    counts = FolderDataset(**entry).counts()
    assert (counts.train, counts.val) == (3, 1)
    (workplace / "images" / "train" / "b" / "6.png").write_bytes(b"")
    again = FolderDataset(**entry)
    assert (again.counts().train, again.counted) == (4, True)
    for path in (workplace / "images" / "val").rglob("*.png"):
        path.unlink()
    (workplace / "images" / "val" / "a").rmdir()
    (workplace / "images" / "val").rmdir()
    alone = FolderDataset(**entry, val_fraction=0.25).counts()
    assert (alone.train, alone.val) == (3, 1)
    assert not FolderDataset(**{**entry, "path": "nowhere"}).counted
