"""Controls: sample sources without a diffusion model, and the models that are no better."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from diffusability.analysis.failed import failed_sentence, mark_failed
from diffusability.analysis.measurements import check_measurements, tabulate
from diffusability.analysis.panels import predictors, targets
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.latents.channel_statistics import channel_statistics
from diffusability.metrics.class_gaussians import fit_class_gaussians
from diffusability.metrics.velocity import measure_velocity
from diffusability.stages.controls import ControlOptions, control_source, posterior_images
from diffusability.stages.inputs import Inputs
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.preflight.cost import Costs
from tests.unit.study_run import plan_of, run_plan

CONTROLS = ["noise", "gaussian", "posterior"]
TARGET = "generation.fd_judge"


def study(controls: list[str], **over: Any) -> Plan:
    """The smoke study of one tokenizer and one model, with controls."""
    return plan_of(
        {
            "metrics": {"generation": {"controls": controls}},
            "sampling": {"count": 120},
            "select": {
                "tokenizers": ["conv-base"],
                "backbones": ["sit-a"],
                "metrics": ["velocity"],
            },
            **over,
        }
    )


def test_controls_are_samples_and_measurements_once_per_tokenizer_and_rename_nothing() -> None:
    plain, more = ({a.path for a in study(names)} for names in ([], CONTROLS))
    assert plain < more
    new = {path.removeprefix("results/").rpartition("/")[0] for path in more - plain}
    assert new == {
        f"{stage}/conv-base/s0/control_{name}/s0/guidance1"
        for stage in ("samples", "generation")
        for name in CONTROLS
    }


def test_a_control_costs_its_decoding_and_its_judging() -> None:
    plan = study(CONTROLS)
    costs = Costs(plan.study)
    model, *controls = (a for a in plan.of_stage("samples"))
    works = [costs.work(a) for a in (model, *controls)]
    assert {w.bytes for w in works} == {works[0].bytes}
    assert len({w.macs for w in works[1:]}) == 1
    assert 0 < works[1].macs < works[0].macs


def kronecker_classes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (2 count, 2, 2, 3) of two matrix-normal classes, and their labels."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    columns = torch.eye(6) + 0.5 * torch.diag(torch.ones(5), -1)
    noise = torch.randn(2 * count, 2, 6, generator=generator)
    labels = torch.arange(2 * count) % 2
    mean = torch.tensor([[3.0, -1.0], [-2.0, 5.0]])[labels][:, :, None]  # (N, 2, 1)
    return (mean + rows @ noise @ columns.T).unflatten(2, (2, 3)), labels


def test_draws_of_the_gaussian_have_mean_and_covariance_of_each_class() -> None:
    latents, labels = kronecker_classes(4_000)
    fit = fit_class_gaussians(latents, labels)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    drawn = fit.draw(noise, labels)
    assert drawn.shape == latents.shape
    assert drawn.dtype == torch.float32
    for one in (0, 1):
        real, made = (x[labels == one].flatten(1) for x in (latents, drawn))
        torch.testing.assert_close(made.mean(0), real.mean(0), atol=0.08, rtol=0)
        torch.testing.assert_close(made.T.cov(), real.T.cov(), atol=0.12, rtol=0)


def test_a_draw_by_its_formula_and_the_covariance_is_that_of_viv() -> None:
    latents, labels = kronecker_classes(50)
    fit = fit_class_gaussians(latents, labels)
    k, statistics = 1, channel_statistics(latents)
    a = fit.mixture.row_vectors[k] @ fit.mixture.row_values[k].diag().sqrt()
    b = fit.mixture.column_vectors[k] @ fit.mixture.column_values[k].diag().sqrt()
    noise = torch.randn(1, 2, 2, 3)
    z = fit.mixture.means[k] + a @ noise[0].flatten(1).double() @ b.T
    by_hand = z * statistics.std[:, None] + statistics.mean[:, None]
    found = fit.draw(noise, torch.tensor([k]))
    torch.testing.assert_close(found[0].flatten(1), by_hand.float())
    # VIV is pi/2 times the mean of sqrt of the eigenvalues, by which draws are scaled
    found = {m.metric: m.value for m in measure_velocity(latents, labels, generator=_seeded())}
    viv = float(torch.pi / 2 * fit.mixture.eigenvalues(torch.arange(2)).sqrt().mean())
    assert found["velocity.viv"] == pytest.approx(viv, rel=1e-6)


def test_a_dead_channel_is_drawn_as_it_is_in_every_image_and_changes_no_other() -> None:
    latents, labels = kronecker_classes(50)
    dead = torch.arange(6.0).view(1, 1, 2, 3).expand(len(latents), -1, -1, -1)
    wide = torch.cat([latents[:, :1], dead, latents[:, 1:]], dim=1)
    noise = torch.randn(4, 3, 2, 3, generator=_seeded())
    asked = torch.tensor([0, 1, 1, 0])
    drawn = fit_class_gaussians(wide, labels).draw(noise, asked)
    assert torch.equal(drawn[:, 1], dead[:4, 0])
    without = fit_class_gaussians(latents, labels).draw(noise[:, [0, 2]], asked)
    assert torch.equal(drawn[:, [0, 2]], without)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_held_out_images_are_of_every_class_or_repeat() -> None:
    nothing, every = torch.zeros(48, 0), torch.arange(48)
    alternating = ImageSet(nothing, every % 12, nothing, every >= 24, 12)
    few = posterior_images(alternating, 12)  # every second one would be of an even class
    assert alternating.labels[few].sort().values.tolist() == list(range(12))
    assert bool((few >= 24).all())
    assert posterior_images(alternating, 24).tolist() == list(range(24, 48))
    assert posterior_images(alternating, 26).tolist() == [*range(24, 48), 24, 25]


def test_they_are_measured_like_samples_and_tabulated_as_the_tokenizers(workplace: Path) -> None:
    plan = study(CONTROLS)
    made = run_plan(plan)
    table = check_measurements(tabulate(plan))
    own = table[table["metric"].str.startswith("control.")]
    assert set(own["backbone"]) == {""}
    assert own[["step", "guidance", "failed"]].isna().all(axis=None)
    for name in CONTROLS:
        folder = made[f"generation/conv-base/s0/control_{name}/s0/guidance1"]
        stored = json.loads((folder / "measurements.json").read_text())
        distance = next(m["value"] for m in stored if m["metric"] == TARGET)
        row = own[own["metric"] == f"control.{name}.fd_judge"]
        assert row["value"].tolist() == [distance]
    assert not [name for name in (*predictors(table), *targets(table)) if "control" in name]
    # a model of the same study is judged by them
    model = table[table["metric"] == TARGET]
    assert model["step"].tolist() == [plan.study.backbones["sit-a"].train.steps]
    assert model["failed"].notna().all()
    check_sources({a.labels["backbone"]: a for a in plan.of_stage("samples")})


def check_sources(samples: dict[str, Artifact]) -> None:
    """Look at what the sources of a study draw, in latent units."""
    drawn = {}
    for name in CONTROLS:
        inputs = Inputs(Job.from_json(samples[f"control_{name}"].job()))
        draw = control_source(inputs, ControlOptions(control=name, count=120))
        latents, labels = drawn[name] = draw(range(120))
        again, same = draw(range(50, 60))  # whatever the batches are
        assert torch.equal(again, latents[50:60])
        assert torch.equal(same, labels[50:60])
    statistics = channel_statistics(inputs.latents.mean)
    noise = (drawn["noise"][0] - statistics.mean[:, None, None]) / statistics.std[:, None, None]
    assert noise.mean().abs() < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)
    held_out = posterior_images(inputs.data, 120)
    assert torch.equal(drawn["posterior"][1], inputs.data.labels[held_out])
    moments = inputs.latents[held_out]
    noise = (drawn["posterior"][0] - moments.mean) / torch.exp(0.5 * moments.logvar)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert drawn["gaussian"][1].bincount().tolist() == [12] * 10


def judged(**over: Any) -> pd.DataFrame:
    """The rows of a model and of its control, marked."""
    numbers = {"fd": 5.0, "control": 10.0, "accuracy": 0.5, "n": 100, "guidance": 1.0} | over
    base = {"tokenizer": "a", "tokenizer_seed": 0, "backbone": "sit", "seed": 0, "step": 10}
    base |= {"guidance": numbers["guidance"], "stderr": 1.0, "n": numbers["n"], "options": "{}"}
    alone = base | {"backbone": "", "seed": None, "step": None, "guidance": np.nan}
    accuracy = {"metric": "generation.class_accuracy_judge", "value": numbers["accuracy"]}
    rows = [
        base | {"metric": TARGET, "value": numbers["fd"]},
        base | accuracy | {"options": '{"classes": 10}'},
        base | {"metric": "fisher.learned_fir", "value": 1.0, "guidance": np.nan},
        alone | {"metric": "velocity.viv", "value": 1.0},
    ]
    if numbers["control"] is not None:
        rows.append(alone | {"metric": "control.gaussian.fd_judge", "value": numbers["control"]})
    return mark_failed(pd.DataFrame(rows), TARGET)


@pytest.mark.parametrize(
    ("numbers", "failed"),
    [
        ({}, False),
        ({"fd": 10.0}, True),
        ({"fd": 7.2}, True),  # 2 sqrt(1 + 1) = 2.83 below 10 is 7.17
        ({"fd": 7.1}, False),
        ({"fd": 30.0, "control": None}, False),  # not asked for
        ({"accuracy": 0.16}, True),  # 0.1 + 2 sqrt(0.09 / 100) = 0.16
        ({"accuracy": 0.17}, False),
        ({"accuracy": 0.02, "control": None}, True),
        ({"accuracy": 0.16, "n": 10_000}, False),
        ({"accuracy": None}, False),
    ],
)
def test_a_model_fails_at_chance_or_if_no_better_than_the_gaussian(
    numbers: dict[str, Any], failed: bool
) -> None:
    table = judged(**numbers)
    assert table["failed"].tolist()[:3] == [failed] * 3  # what was learned without a scale, too
    assert table["failed"][3:].isna().all()
    assert (table["failed_reason"] != "").tolist()[:3] == [failed] * 3


def test_the_headline_counts_what_failed() -> None:
    both = pd.concat([judged(fd=9.0), judged().assign(tokenizer="b")])
    assert failed_sentence(both).startswith("1 of 2 sets of samples failed: they are no better")
    assert failed_sentence(judged()) == ""


def test_both_reasons_are_given() -> None:
    reason = judged(fd=9.0, accuracy=0.1)["failed_reason"][0]
    assert "class accuracy 0.1 is within 2 standard errors (0.06) of chance (0.1)" in reason
    assert "fd_judge 9 is not below that of the Gaussian control (10)" in reason
