"""Image folders under Snakemake: what is planned when they move or hold other images."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusability.study.reading.load import read_yaml
from tests.conftest import REPOSITORY
from tests.unit.archive_files import labelled, write_tar
from tests.unit.idx_files import write_idx
from tests.unit.image_files import other_pixels, write_images
from tests.workflow.workspace import Workspace

pytestmark = pytest.mark.slow
SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
STUDY = ("--configfile", "study.yaml")
METRICS = ["spatial"]  # which a few images are enough for


def prepare(workspace: Workspace, check: bool = True) -> str:
    """Force the index of the images to be made; return what Snakemake says."""
    (card,) = workspace.path.glob("results/dataset/photos/*/provenance.json")
    target = str(card.relative_to(workspace.path))
    return workspace.run("snakemake", "-c1", *STUDY, "-f", "--", target, check=check).stdout


@pytest.mark.parametrize("name", [None, "photos"])
def test_a_moved_folder_and_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workspace = Workspace.create(tmp_path / "workspace")
    write_images(workspace.path / "a" / "images", per_class=2)

    def study(path: str) -> None:
        values: dict[str, Any] = copy.deepcopy(SMOKE)
        photos = {"kind": "folder", "path": path, "size": 16, "num_classes": 3, "content": name}
        values["datasets"] = {"photos": photos}
        values["select"] = {"dataset": "photos", "metrics": METRICS}
        workspace.write_study(values)

    study("a/images")
    assert "prepare_dataset" in workspace.planned()
    workspace.run("snakemake", "-c1", *STUDY, "--until", "prepare_dataset")
    assert "prepare_dataset" not in workspace.planned()
    shutil.move(workspace.path / "a", workspace.path / "b")
    study("b/images")
    assert "prepare_dataset" not in workspace.planned()
    prepare(workspace)
    file = workspace.path / "b/images/train/n01/train_n01_0.png"
    file.write_bytes(other_pixels(file.read_bytes()))
    if name is None:
        assert "prepare_dataset" in workspace.planned()
    else:
        refusal = "not the images that the name `photos` stands for"
        assert refusal in prepare(workspace, check=False)
        # also where nothing is to be done
        dry = workspace.run("snakemake", "-n", *STUDY, "--until", "prepare_dataset", check=False)
        assert refusal in dry.stdout
        assert list(workspace.path.glob("results/dataset/photos/*/manifest.json"))


def write_archive(folder: Path) -> dict[str, Any]:
    """Write a tar of images; return its entry but for the path."""
    write_images(folder / "loose", per_class=2)
    write_tar(folder / "images.tar", labelled(folder / "loose", "train"))
    shutil.rmtree(folder / "loose")
    return {"kind": "tar", "size": 16, "num_classes": 3, "val_fraction": 0.5}


def write_pixels(folder: Path) -> dict[str, Any]:
    """Write files of the format of MNIST; return their entry but for the path."""
    write_idx(folder)
    return {"kind": "idx", "fit": "resize", "size": 16}


@pytest.mark.parametrize("write", [write_archive, write_pixels])
def test_moved_files_of_many_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], dict[str, Any]]
) -> None:
    """Nothing runs again, and jobs that have yet to run read the files where they are now."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workspace = Workspace.create(tmp_path / "workspace")
    entry = write(workspace.path / "a")

    def study(path: str) -> None:
        values: dict[str, Any] = copy.deepcopy(SMOKE)
        values["datasets"] = {"photos": {**entry, "path": path}}
        values["select"] = {"dataset": "photos", "metrics": METRICS}
        workspace.write_study(values)

    study("a")
    workspace.run("snakemake", "-c1", *STUDY, "--until", "prepare_dataset")
    shutil.move(workspace.path / "a", workspace.path / "b")
    study("b")
    assert "prepare_dataset" not in workspace.planned()
    encoder = workspace.planned()["train_encoder"]
    workspace.run("snakemake", "-c1", *STUDY, "--until", "train_encoder")
    assert encoder
    assert "train_encoder" not in workspace.planned()
    (largest,) = sorted((workspace.path / "b").iterdir(), key=lambda file: file.stat().st_size)[-1:]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert "prepare_dataset" in workspace.planned()  # of equal size, but other files
