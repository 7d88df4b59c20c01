"""Timestep shift and guidance interval: from the study file to the sampler."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusability.analysis.sampling import collect_profiles
from diffusability.diffusion import guidance, sampler
from diffusability.errors import StudyError
from diffusability.stages import samples
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.entries.sampling import SamplingSpec
from tests.unit.study_run import measurements, plan_of, run_plan

PUBLISHED = {
    "shift": 0.3,
    "guidance_interval": [0.125, 1.0],
    "guidance": [4.0],
    "guidance_channels": 3,
    "labels": "random",
}
EXTENT = {"select": {"tokenizers": ["conv-base"], "seeds": [0]}}


def test_left_out_they_are_in_no_canonical_form() -> None:
    plain = SamplingSpec().of_samples("flow", 1.5)
    assert set(plain) == {"solver", "evaluations", "count", "seed", "guidance"}
    stated = SamplingSpec(shift=1, guidance_interval=(0, 1), labels="balanced", guidance_of={})
    stated = stated.of_samples("flow", 1.5)
    assert stated == plain


def test_they_change_samples_of_flow_models_alone() -> None:
    spec = SamplingSpec(shift=0.3, guidance_interval=(0.1, 1))
    found = spec.of_samples("flow", 1.5)
    assert (found["shift"], found["guidance_interval"]) == (0.3, [0.1, 1.0])
    assert spec.of_samples("edm", 1.5) == SamplingSpec().of_samples("edm", 1.5)


def test_how_guidance_acts_changes_no_samples_without_guidance() -> None:
    spec = SamplingSpec(guidance_interval=(0.1, 1), guidance_channels=3)
    assert spec.of_samples("flow", 1) == SamplingSpec().of_samples("flow", 1)
    assert spec.of_samples("flow", 2)["guidance_channels"] == 3


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"shift": 0}, "sampling.shift: input should be greater than 0"),
        ({"guidance_interval": [0.5, 0.2]}, "not in order"),
        ({"guidance_interval": [0.5, 1.2]}, "less than or equal to 1"),
        ({"guidance_of": {"sit-a": [2, 2.0]}}, "duplicate guidance scale in"),
        ({"guidance_of": {"sit-aa": [2]}}, r"guidance_of.sit-aa: unknown backbone .*`sit-a`"),
    ],
)
def test_values_out_of_range_are_refused(over: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        plan_of({"sampling": over})


def test_they_reach_the_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {}

    def integrate(velocity, noise, steps, solver, shift, on_step):  # type: ignore[no-untyped-def]
        seen["shift"] = shift
        return sampler.integrate(velocity, noise, steps, solver, shift, on_step)

    def guided(model, labels, null, scale, interval, channels):  # type: ignore[no-untyped-def]
        seen["interval"], seen["scale"], seen["channels"] = interval, scale, channels
        seen["labels"] = labels
        return guidance.guided_velocity(model, labels, null, scale, interval, channels)

    monkeypatch.setattr(samples, "integrate", integrate)
    monkeypatch.setattr(samples, "guided_velocity", guided)
    plan = plan_of({"sampling": PUBLISHED, **EXTENT})
    made = run_plan(plan, "generation")
    labels = seen.pop("labels")  # of all 40 samples: one batch
    assert seen == {"shift": 0.3, "interval": (0.125, 1.0), "scale": 4.0, "channels": 3}
    # drawn: not the balanced cycle, and the same whatever the batch
    assert len(labels) == 40
    assert not torch.equal(labels[:10], torch.arange(10))
    seed = derive_seed("sampling labels", 0)
    assert torch.equal(labels[7:9], sampler.random_labels(seed, range(7, 9), 10))
    # the path statistics assume even steps: they are left out with a reason, not wrong
    (folder,) = (path for name, path in made.items() if name.startswith("samples/"))
    assert json.loads((folder / "samples.json").read_text())["trajectory"] is None
    (folder,) = (path for name, path in made.items() if name.startswith("generation/"))
    cell = measurements(folder)["trajectory.straightness"]
    assert cell["value"] is None
    assert "sampling.shift makes them uneven" in cell["flags"][0]
    assert collect_profiles(plan).empty


def test_scales_of_one_backbone() -> None:
    over: dict[str, Any] = {"sampling": {"guidance": [1, 2, 3]}, "select": {"backbones": "all"}}
    plain = {a.name: a.fingerprint for a in plan_of(over).of_stage("samples", "diffusion")}
    over["sampling"]["guidance_of"] = {"sit-a": [2]}
    found = {a.name: a.fingerprint for a in plan_of(over).of_stage("samples", "diffusion")}
    assert found.items() < plain.items()  # what is left has its name
    left_out = plain.keys() - found.keys()
    assert left_out
    assert all("/sit-a/" in n and n.endswith(("/guidance1", "/guidance3")) for n in left_out)
    assert any("/sit-a/" in name and name.endswith("/guidance2") for name in found)


def test_random_labels_are_uniform() -> None:
    drawn = sampler.random_labels(3, range(4000), 10)
    counts = drawn.bincount(minlength=10)
    expected = 400.0
    chi_square = float((counts - expected).square().sum() / expected)
    assert 1.7 < chi_square < 27.9  # 0.5 % and 99.9 % of chi-square with 9 degrees of freedom
