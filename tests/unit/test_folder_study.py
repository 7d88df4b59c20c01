"""A study on an image folder, from its index to a metric, without workflow around it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.artifacts.named_content import check_named_contents
from diffusability.data.load import job_dataset, load_dataset
from diffusability.errors import DataError
from diffusability.stages.make import make as make_files
from diffusability.study.entries.dataset import FolderDataset
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.reading.load import merge, read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.sources import content
from tests.conftest import REPOSITORY
from tests.unit.image_files import other_pixels, write_image, write_images, write_mask

STAGES_RUN = ("dataset", "encoder", "tokenizer", "latents", "spatial", "semantics")
PAGE = REPOSITORY / "docs/images.md"
FEW = {"steps": 4, "batch": 8}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember nothing from other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def study(path: str, **options: object) -> dict[str, object]:
    """Return the smoke study on an image folder, cut to a few steps."""
    folder = {"kind": "folder", "path": path, "size": 16, "num_classes": 3, "content": "toy"}
    return merge(
        read_yaml(REPOSITORY / "studies" / "smoke.yaml"),
        {
            "datasets": {"toy": folder | options},
            "encoders": {"glyph": {"train": FEW}, "judge": {"train": FEW}},
            "bases": {"conv-f2d4": {"train": FEW}},
            "metrics": {"semantics": {"neighbours": [1, 3]}, "spatial": {"split": "val"}},
            "select": {"dataset": "toy", "tokenizers": ["conv-vf-glyph"]},
        },
    )


def plan(values: dict[str, object]) -> Plan:
    """Return the plan of a study."""
    return Plan(resolve_study(values, "test"))


def make(planned: Plan, *stages: str) -> None:
    """Make every artifact of some stages, in the order of the plan."""
    for artifact in planned:
        if artifact.stage in stages:
            job = Job.from_json(artifact.job())
            with job.writing() as folder:
                make_files(job, folder)


def dataset(planned: Plan) -> Path:
    """Return the folder of the prepared dataset."""
    return Path(planned.of_stage("dataset")[0].path)


def measured(planned: Plan, stage: str) -> dict[str, dict]:
    """Return the measurements of the one artifact of a stage, by metric."""
    path = Path(planned.of_stage(stage)[0].path, "measurements.json")
    return {cell["metric"]: cell for cell in json.loads(path.read_text())}


def test_from_files_to_a_metric(workplace: Path) -> None:
    write_images(workplace / "toy", per_class=10)
    ids = np.zeros((20, 24), dtype=np.int64)
    ids[:, 12:] = 5
    for c in (1, 2, 3):
        for k in range(4):
            write_mask(workplace / "masks" / f"n0{c}" / f"val_n0{c}_{k}.png", ids)
    planned = plan(study("toy", masks="masks", train_crop="random"))
    make(planned, *STAGES_RUN, "reconstruction", "equivariance")
    manifest = json.loads((dataset(planned) / "manifest.json").read_text())
    assert manifest["images_by_class"] == {"train": [10] * 3, "val": [10] * 3}
    assert (manifest["shape"], manifest["masks"], manifest["damaged"]) == ([3, 16, 16], 12, {})
    assert 0.4 < manifest["foreground_share"] < 0.6
    card = read_card(dataset(planned))
    assert set(card["outputs"]) == {*STAGES["dataset"].outputs, "index.json"}
    spatial = measured(planned, "spatial")
    assert spatial["spatial.lds"]["n"] == 30
    assert spatial["spatial.srss"]["n"] == 12
    assert spatial["spatial.srss"]["flags"] == ["18 images without foreground left out"]
    semantics = measured(planned, "semantics")["semantics.lnc1"]
    assert semantics["flags"][-1] == "48 images without foreground left out"
    assert measured(planned, "reconstruction")["reconstruction.psnr"]["n"] == 60
    assert measured(planned, "equivariance")["equivariance.flip_error"]["n"] == 30


def test_without_masks_what_needs_them_is_declared(workplace: Path) -> None:
    write_images(workplace / "toy", per_class=10)
    planned = plan(study("toy"))
    make(planned, *STAGES_RUN)
    spatial = measured(planned, "spatial")
    assert spatial["spatial.srss"]["value"] is None
    assert spatial["spatial.srss"]["flags"] == ["not applicable: the dataset has no masks"]
    assert spatial["spatial.lds"]["n"] == 30
    assert measured(planned, "semantics")["semantics.lnc1"]["options"]["pooling"] == "mean"


def test_a_moved_folder_makes_nothing_again(workplace: Path) -> None:
    write_images(workplace / "toy", per_class=2)
    settle(workplace / "toy")
    before = plan(unnamed("toy"))
    make(before, "dataset")
    assert len(load_dataset(dataset(before)).labels) == 12
    shutil.move("toy", "elsewhere")
    away = plan(unnamed("toy"))
    assert [a.path for a in away] == [a.path for a in before]  # as long as it is not there
    with pytest.raises(DataError, match="no such folder.*set the dataset's `path` .*snakemake -c1"):
        load_dataset(dataset(before))
    after = plan(unnamed("elsewhere"))
    assert [a.path for a in after] == [a.path for a in before]
    reader = Job.from_json(after.of_stage("encoder")[0].job())
    assert job_dataset(reader).images[0:2].shape == (2, 3, 16, 16)  # from where they are now


def unnamed(path: str, **options: object) -> dict[str, object]:
    """Return the study on a folder that is known by its content alone."""
    return study(path, **({"content": None} | options))


def settle(folder: Path) -> None:
    """Make files old enough to be remembered."""
    for file in folder.rglob("*.png"):
        os.utime(file, (1_700_000_000,) * 2)


def swap(one: Path, other: Path) -> None:
    """Exchange two files."""
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1])
    other.write_bytes(content[0])


def exchange_labels(root: Path) -> None:
    """Exchange two files of equal size between two classes."""
    one, other = (root / "train" / name / f"train_{name}_0.png" for name in ("n01", "n02"))
    size = max(len(one.read_bytes()), len(other.read_bytes()))
    for file in (one, other):
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    swap(one, other)


def change_pixels(root: Path) -> None:
    """Put other pixels into a file of equal size and name."""
    file = root / "train" / "n01" / "train_n01_0.png"
    file.write_bytes(other_pixels(file.read_bytes()))


def add_image(root: Path) -> None:
    """Add one file."""
    write_image(root / "train" / "n01" / "more.png", 9)


def remove_image(root: Path) -> None:
    """Remove one file."""
    (root / "val" / "n01" / "val_n01_0.png").unlink()


def change_mask(root: Path) -> None:
    """Draw another mask."""
    write_mask(Path("masks", "val_n01_1.png"), np.full((20, 24), 1))


CHANGES = (exchange_labels, change_pixels, add_image, remove_image, change_mask)


@pytest.mark.parametrize("change", CHANGES)
def test_other_content_has_another_name(workplace: Path, change: Callable[[Path], None]) -> None:
    ids = np.zeros((20, 24), dtype=np.int64)
    ids[:, 12:] = 5
    write_mask(workplace / "masks" / "val_n01_1.png", ids)
    for folder in ("a/images", "b/images"):  # of one last name
        write_images(workplace / folder, per_class=2)
        (workplace / folder / ".DS_Store").write_text(folder)
        (workplace / folder / "train" / "n01" / "notes.txt").write_text(folder)
    one, other = (plan(unnamed(f"{k}/images", masks="masks")) for k in "ab")
    assert {a.path for a in one} == {a.path for a in other}
    change(workplace / "b" / "images")
    changed = plan(unnamed("b/images", masks="masks"))
    assert not {a.fingerprint for a in one} & {a.fingerprint for a in changed}
    # a job that was planned before is refused
    with pytest.raises(DataError, match="changed since the study was planned.*snakemake -c1"):
        make(other, "dataset")
    make(changed, "dataset")
    make(plan(unnamed("a/images", masks="masks")), *(() if change is change_mask else ("dataset",)))


@pytest.mark.parametrize("change", CHANGES)
def test_a_name_stands_for_one_content(workplace: Path, change: Callable[[Path], None]) -> None:
    write_images(workplace / "toy", per_class=2)
    write_mask(workplace / "masks" / "val_n01_1.png", np.full((20, 24), 5))
    planned = plan(study("toy", masks="masks"))
    make(planned, "dataset")
    check_named_contents(planned.study, record=True)
    shutil.copytree("toy", "moved")
    check_named_contents(plan(study("moved", masks="masks")).study, record=True)
    change(workplace / "toy")
    # what Snakemake does before it runs a job: it deletes the outputs that the rule declares
    for name in ("provenance.json", *STAGES["dataset"].outputs):
        Path(dataset(planned), name).unlink()
    again = plan(study("toy", masks="masks"))
    assert [a.path for a in again] == [a.path for a in planned]
    message = "not the images that the name `toy` stands for .* another `content`, or none"
    with pytest.raises(DataError, match=message):
        make(again, "dataset")
    with pytest.raises(DataError, match=message):  # before any job starts
        check_named_contents(again.study, record=True)
    make(plan(study("toy", masks="masks", content="toy-2")), "dataset")


def test_a_file_that_could_not_be_read_once_leaves_no_trace(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(workplace / "toy", per_class=2)
    settle(workplace / "toy")
    with monkeypatch.context() as broken:
        broken.setattr(content, "_sha256", lambda file: content.UNREADABLE)
        plan(unnamed("toy"))
    make(plan(unnamed("toy")), "dataset")


def test_planning_reads_images_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(workplace / "toy", per_class=2)
    settle(workplace / "toy")
    read: list[str] = []
    monkeypatch.setattr(content, "_sha256", lambda file: read.append(file.name) or "0" * 64)
    first = plan(unnamed("toy")).study.dataset.identity
    assert len(read) == 12
    assert plan(unnamed("toy")).study.dataset.identity == first
    assert len(read) == 12
    add_image(workplace / "toy")
    assert plan(unnamed("toy")).study.dataset.identity != first
    assert read[12:] == ["more.png"]


def test_datasets_of_one_content_are_one_and_a_name_is_not_read(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(workplace / "toy", per_class=2)
    monkeypatch.setattr(content, "_sha256", lambda file: pytest.fail(f"read {file}"))
    assert plan(study("toy")).study.dataset.identity == "toy"
    assert plan(unnamed("not-here")).study.dataset.identity == "not-here"


def test_example_of_the_documentation() -> None:
    blocks = re.findall(r"```yaml\n(datasets:.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "kind: folder" in block)
    (values,) = yaml.safe_load(block)["datasets"].values()
    assert FolderDataset.model_validate(values).masked


def test_manifest_lists_what_was_skipped(workplace: Path) -> None:
    write_images(workplace / "toy", per_class=3)
    (workplace / "toy" / "train" / "n02" / "train_n02_0.png").write_bytes(b"")
    planned = plan(study("toy", damaged="skip"))
    make(planned, "dataset")
    manifest = json.loads((dataset(planned) / "manifest.json").read_text())
    assert manifest["damaged"] == {"train/n02/train_n02_0.png": "empty"}
    assert manifest["images_by_class"]["train"] == [3, 2, 3]
