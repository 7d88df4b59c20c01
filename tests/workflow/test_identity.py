"""Image folders under Snakemake: what is planned when they move or hold other images."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from diffusability.study.load import read_yaml
from tests.conftest import REPOSITORY
from tests.unit.image_files import other_pixels, write_images
from tests.workflow.workspace import Workspace

pytestmark = pytest.mark.slow
SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
STUDY = ("--configfile", "study.yaml")


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
        values["select"]["dataset"] = "photos"
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
        assert "not the images that the name `photos` stands for" in prepare(workspace, check=False)
        assert list(workspace.path.glob("results/dataset/photos/*/manifest.json"))
