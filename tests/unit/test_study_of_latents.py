"""A study without diffusion models, and one that measures only some perspectives."""

from copy import deepcopy
from typing import Any

import pytest

from diffusability.errors import StudyError
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.targets import figure_names, table_names
from diffusability.study.reading.load import read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import Study
from tests.conftest import REPOSITORY

SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")


def study(metrics: dict[str, Any], *without: str) -> Study:
    data = deepcopy(SMOKE)
    for key in without:
        del data[key]
    return resolve_study(data | {"metrics": metrics}, "test")


def test_without_diffusion_models_the_same_latents_are_measured() -> None:
    metrics = {name: SMOKE["metrics"][name] for name in SMOKE["metrics"] if name != "generation"}
    metrics["fisher"] = {"split": "all"}
    alone = study(metrics, "backbones", "sampling")
    own = {artifact.path for artifact in Plan(alone)}
    whole = {artifact.path for artifact in Plan(resolve_study(SMOKE, "test"))}
    assert own < whole
    stages = {path.split("/")[1] for path in whole - own}
    kept = {path.split("/")[1] for path in own}
    assert stages == {"diffusion", "samples", "generation", "learned_fisher"}
    assert not kept & stages


def test_without_diffusion_models_their_tables_and_figures_are_left_out() -> None:
    alone = study({"velocity": {}, "fisher": {}}, "backbones", "sampling")
    latents = ["measurements", "spectra", "intercorrelations", "tokenizers", "comparability"]
    assert table_names(alone) == (*latents, "latent_spaces", "latent_findings")
    assert figure_names(alone) == ("scheme", "fisher_curves")
    assert "claims" in table_names(resolve_study(SMOKE, "test"))


def test_a_group_without_a_key_is_not_measured() -> None:
    data = deepcopy(SMOKE)
    del data["backbones"], data["sampling"]
    data["metrics"] = {"velocity": {}, "smoothness": None}
    found = resolve_study(data, "test")
    assert list(found.selected_metrics) == ["velocity"]
    assert {a.stage for a in Plan(found).measured} == {"velocity"}


def test_backbones_need_to_be_told_how_images_are_judged() -> None:
    with pytest.raises(StudyError, match=r"metrics\.generation: this key is required"):
        study({"velocity": {}})


def test_a_study_that_measures_nothing_is_refused() -> None:
    with pytest.raises(StudyError, match="metrics: nothing is measured"):
        study({}, "backbones", "sampling")
