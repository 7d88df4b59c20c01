"""Timestep shift and guidance interval: from the study file to the sampler."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffusability.analysis.sampling import collect_profiles
from diffusability.diffusion import guidance, sampler
from diffusability.errors import StudyError
from diffusability.stages import samples
from diffusability.study.backbone import SamplingSpec
from tests.unit.study_run import measurements, plan_of, run_plan

PUBLISHED = {"shift": 0.3, "guidance_interval": [0.125, 1.0], "guidance": [4.0]}
EXTENT = {"select": {"tokenizers": ["conv-base"], "seeds": [0]}}


def test_left_out_they_are_in_no_canonical_form() -> None:
    plain = SamplingSpec().of_process("flow")
    assert not {"shift", "guidance_interval"} & set(plain)
    stated = SamplingSpec(shift=1, guidance_interval=(0, 1)).of_process("flow")
    assert stated == plain


def test_they_change_samples_of_flow_models_alone() -> None:
    spec = SamplingSpec(shift=0.3, guidance_interval=(0.1, 1))
    found = spec.of_process("flow")
    assert (found["shift"], found["guidance_interval"]) == (0.3, [0.1, 1.0])
    assert spec.of_process("edm") == SamplingSpec().of_process("edm")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"shift": 0}, "sampling.shift: input should be greater than 0"),
        ({"guidance_interval": [0.5, 0.2]}, "not in order"),
        ({"guidance_interval": [0.5, 1.2]}, "less than or equal to 1"),
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

    def guided(model, labels, null, scale, interval):  # type: ignore[no-untyped-def]
        seen["interval"], seen["scale"] = interval, scale
        return guidance.guided_velocity(model, labels, null, scale, interval)

    monkeypatch.setattr(samples, "integrate", integrate)
    monkeypatch.setattr(samples, "guided_velocity", guided)
    plan = plan_of({"sampling": PUBLISHED, **EXTENT})
    made = run_plan(plan, "generation")
    assert seen == {"shift": 0.3, "interval": (0.125, 1.0), "scale": 4.0}
    # the path statistics assume even steps: they are left out with a reason, not wrong
    (folder,) = (path for name, path in made.items() if name.startswith("samples/"))
    assert json.loads((folder / "samples.json").read_text())["trajectory"] is None
    (folder,) = (path for name, path in made.items() if name.startswith("generation/"))
    cell = measurements(folder)["trajectory.straightness"]
    assert cell["value"] is None
    assert "sampling.shift makes them uneven" in cell["flags"][0]
    assert collect_profiles(plan).empty
