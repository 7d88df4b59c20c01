"""What metric stages give their functions: raw latents, training images, draws, undecided masks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusability.artifacts.job import Job
from diffusability.metrics.nearest_neighbours import nearest_neighbours
from diffusability.stages.inputs import Inputs
from diffusability.stages.latent_metrics import spatial, uniformity
from diffusability.study.planning.plan import Artifact, Plan
from tests.unit.study_run import measurements, plan_of, run_plan

EXTENT: dict[str, Any] = {
    "encoding": {"flip": True},
    "select": {"tokenizers": ["conv-base"], "seeds": [0]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, dict[str, Path]]:
    """The smoke study's metrics of one tokenizer, with mirrored latents."""
    folder = tmp_path_factory.mktemp("metrics")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = plan_of(EXTENT)
        stages = ("semantics", "continuity", "spatial", "uniformity")
        made = run_plan(plan, *stages)
        folders = {name.partition("/")[0]: folder / path for name, path in made.items()}
    return folder, plan, folders


def artifact(plan: Plan, stage: str) -> Artifact:
    (found,) = plan.of_stage(stage)
    return found


def test_neighbours_are_of_raw_latents(
    made: tuple[Path, Plan, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, folders = made
    monkeypatch.chdir(folder)
    inputs = Inputs(Job.from_json(artifact(plan, "continuity").job()))
    mean = inputs.latents.mean
    asked, offered = inputs.data.split("val"), inputs.data.split("train")
    (cell,) = measurements(folders["continuity"]).values()
    assert cell["options"]["normalise"] is False
    expected = nearest_neighbours(mean[asked], mean[offered], neighbours=10)
    found = load_file(folders["continuity"] / "neighbours.safetensors")["indices"]
    assert torch.equal(found, expected.indices)
    scaled = plan_of(EXTENT | {"metrics": {"continuity": {"normalise": True}}})
    assert artifact(scaled, "continuity").path != artifact(plan, "continuity").path


def test_the_probe_learns_from_the_training_set(
    made: tuple[Path, Plan, dict[str, Path]],
) -> None:
    _, _, folders = made
    probe = measurements(folders["semantics"])["semantics.probe"]
    assert probe["n"] == 359  # of the 1,797 digits a fifth of every class is held out
    assert probe["options"]["protocol"] == "1438 given training images"


def test_cells_are_drawn_from_posteriors_and_mirrored(
    made: tuple[Path, Plan, dict[str, Path]],
) -> None:
    _, _, folders = made
    for cell in measurements(folders["uniformity"]).values():
        assert (cell["options"]["posterior"], cell["options"]["flip"]) == ("draw", True)


def test_undecided_pixels_reach_srss(
    made: tuple[Path, Plan, dict[str, Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, plan, folders = made
    monkeypatch.chdir(folder)
    inputs = Inputs(Job.from_json(artifact(plan, "spatial").job()))
    data = inputs.data
    masks = data.masks[torch.arange(len(data.labels))]
    # a rim of undecided pixels right of the foreground
    rim = torch.zeros_like(masks)
    rim[:, :, 1:] = masks[:, :, :-1] & ~masks[:, :, 1:]
    object.__setattr__(data, "undecided", rim)
    cells, _ = spatial(inputs, plan.study.metrics.spatial, tmp_path)
    found = {cell.metric: cell.to_json() for cell in cells}
    before = measurements(folders["spatial"])
    assert found["spatial.srss"]["value"] != before["spatial.srss"]["value"]
    assert found["spatial.lds"] == before["spatial.lds"]


def test_means_of_unmirrored_images_on_request(
    made: tuple[Path, Plan, dict[str, Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, plan, _ = made
    monkeypatch.chdir(folder)
    inputs = Inputs(Job.from_json(artifact(plan, "uniformity").job()))
    spec = plan.study.metrics.uniformity.model_copy(update={"posterior": "mean", "flip": False})
    for cell in uniformity(inputs, spec, tmp_path)[0]:
        assert (cell.options["posterior"], cell.options["flip"]) == ("mean", False)


def test_measurements_of_rounded_latents_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    groups = ("smoothness", "semantics", "spatial", "fisher", "continuity")
    over = EXTENT | {"metrics": {group: {"split": "val"} for group in groups}}
    over["metrics"]["continuity"] |= {"pool": "val", "extractor": "judge"}
    flag = "latents rounded to bfloat16"
    for encoding, rounded in (
        ({"dtype": "bfloat16"}, True),
        ({"dtype": "bfloat16", "val_means": "float32"}, False),
    ):
        made = run_plan(plan_of(over | {"encoding": encoding}), *groups)
        folders = [path for name, path in made.items() if name.partition("/")[0] in groups]
        cells = [cell for folder in folders for cell in measurements(folder).values()]
        assert len(folders) == len(groups)
        assert all(
            (flag in cell["flags"]) == rounded for cell in cells if cell["value"] is not None
        )
