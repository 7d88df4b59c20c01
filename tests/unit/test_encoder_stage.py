"""Encoders of every kind through the stages: trained, loaded, and used as extractors."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.encoders.load import load_encoder
from diffusability.report.summaries import encoder_rows
from diffusability.stages.make import make
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import read_yaml
from diffusability.study.reading.resolve import resolve_study
from tests.conftest import REPOSITORY

STAGES = ("dataset", "encoder", "tokenizer", "latents", "reconstruction", "continuity")
STAGES += ("diffusion", "samples", "generation")


def small_study() -> dict[str, Any]:
    """The smoke study: aligned with a masked encoder, evaluated with a contrastive one."""
    study = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
    network = {"width": 8, "features": 16, "factor": 2, "train": {"steps": 20, "lr": 2e-3}}
    study["encoders"] = {
        "glyph": {"kind": "masked", **network},
        "judge": {"kind": "contrastive", **network},
    }
    study["select"] |= {"tokenizers": ["conv-vf-glyph"], "backbones": ["sit-b"]}
    return study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of every artifact, by stage and name."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        workplace = tmp_path_factory.mktemp("study")
        patch.chdir(workplace)
        for artifact in Plan(resolve_study(small_study(), source="test")):
            if artifact.stage in STAGES:
                job = Job.from_json(artifact.job())
                with job.writing() as folder:
                    make(job, folder)
                name = artifact.labels.get("encoder")
                folders[artifact.stage if name is None else name] = workplace / artifact.path
    return folders


@pytest.mark.parametrize("name", ["glyph", "judge"])
def test_the_loaded_encoder_has_a_grid_and_no_classes(made: dict[str, Path], name: str) -> None:
    data = load_dataset(made["dataset"])
    model = load_encoder(made[name], data, "cpu")
    images = torch.zeros(2, 1, 8, 8)
    assert model.grid(images).shape == (2, model.grid_channels, 4, 4) == (2, 16, 4, 4)
    assert model.logits(model.features(images)).shape == (2, 0)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "terms"),
    [("glyph", {"hidden_error", "explained"}), ("judge", {"nt_xent", "matched"})],
)
def test_the_history_ends_in_held_out_numbers(
    made: dict[str, Path], name: str, terms: set[str]
) -> None:
    with (made[name] / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert terms <= rows[0].keys()
    assert {f"validation_{term}" for term in terms} <= rows[0].keys()
    assert all(row["validation_accuracy"] == "" for row in rows[:-1])
    accuracy, stderr = (float(rows[-1][f"validation_accuracy{end}"]) for end in ("", "_stderr"))
    assert 0.2 < accuracy < 1  # ten classes
    assert stderr == pytest.approx((accuracy * (1 - accuracy) / 359) ** 0.5, rel=0.01)


def test_a_judge_without_classes_declares_what_it_cannot_tell(made: dict[str, Path]) -> None:
    cells = json.loads((made["generation"] / "measurements.json").read_text())
    found = {cell["metric"]: cell for cell in cells}
    for metric in ("generation.class_accuracy_judge", "generation.inception_score_judge"):
        assert found[metric]["value"] is None
        assert found[metric]["flags"] == ["not applicable: the extractor `judge` names no classes"]
    assert found["generation.fd_judge"]["value"] > 0


@pytest.mark.parametrize(
    ("stage", "metric"),
    [("reconstruction", "reconstruction.fd_judge"), ("continuity", "continuity.ifd_judge")],
)
def test_a_judge_without_classes_measures_distances(
    made: dict[str, Path], stage: str, metric: str
) -> None:
    cells = json.loads((made[stage] / "measurements.json").read_text())
    assert {cell["metric"]: cell for cell in cells}[metric]["value"] > 0


def test_the_report_shows_what_single_tokens_know(made: dict[str, Path]) -> None:
    plan = Plan(resolve_study(small_study(), source="test"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made["dataset"].parents[3])
        rows = encoder_rows(plan).set_index("encoder")
    assert set(rows.index) == {"glyph", "judge"}
    with (made["glyph"] / "history.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    shown = rows.loc["glyph", "accuracy of a single token"]
    assert shown.startswith(f"{float(last['probe_token']):.3g} ± ")
    assert 0.1 < float(last["probe_token"]) < float(last["probe_mean"]) < 1


def test_the_report_shows_encoders_of_one_class_without_accuracies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(resolve_study(small_study(), source="test"))
    monkeypatch.chdir(tmp_path)
    for artifact in plan.of_stage("encoder"):
        Path(artifact.path).mkdir(parents=True)
        (Path(artifact.path) / "history.csv").write_text("step,token_rank\n20,3.5\n")
    rows = encoder_rows(plan).set_index("encoder")
    assert rows.loc["glyph", "entropy rank of tokens"] == "3.5"
    assert rows.loc["glyph", "accuracy of a single token"] == ""
