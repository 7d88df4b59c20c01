"""A study on an image folder, from its index to a metric, without workflow around it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.errors import DataError
from diffusability.stages.make import make as make_files
from diffusability.study.dataset import FolderDataset
from diffusability.study.load import merge, read_yaml
from diffusability.study.plan import Plan
from diffusability.study.resolve import resolve_study
from diffusability.study.stages import STAGES
from tests.conftest import REPOSITORY
from tests.unit.image_files import write_image, write_images, write_mask

STAGES_RUN = ("dataset", "encoder", "tokenizer", "latents", "spatial", "semantics")
PAGE = REPOSITORY / "docs/images.md"
FEW = {"steps": 4, "batch": 8}


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


def test_a_moved_folder_is_indexed_again_and_nothing_else(workplace: Path) -> None:
    write_images(workplace / "toy", per_class=2)
    before = plan(study("toy"))
    make(before, "dataset")
    assert len(load_dataset(dataset(before)).labels) == 12
    shutil.move("toy", "elsewhere")
    with pytest.raises(DataError, match="no such folder.*snakemake -c1 -f .*only the index"):
        load_dataset(dataset(before))
    after = plan(study("elsewhere"))
    assert [a.path for a in after] == [a.path for a in before]
    make(after, "dataset")
    assert load_dataset(dataset(after)).images[0:2].shape == (2, 3, 16, 16)


def test_other_images_do_not_take_the_name_of_those_that_were_indexed(workplace: Path) -> None:
    write_images(workplace / "toy", per_class=2)
    planned = plan(study("toy"))
    make(planned, "dataset")
    write_image(workplace / "toy" / "train" / "n01" / "more.png", 9)
    with pytest.raises(DataError, match="holds other images than those .* indexed as `toy`"):
        make(planned, "dataset")
    assert len(load_dataset(dataset(planned)).labels) == 12  # untouched
    make(plan(study("toy", content="toy-2")), "dataset")


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
