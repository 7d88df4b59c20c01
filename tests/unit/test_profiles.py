"""Profiles along trajectories: collected from samples, related to quality and to variance."""

import json

import pandas as pd
import pytest

from diffusability.analysis.measurements import check_measurements
from diffusability.analysis.panels import Measured
from diffusability.analysis.sampling import collect_profiles, deviations, variance_relations
from diffusability.artifacts.job import Job
from diffusability.errors import ArtifactError
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import measurement_table, profiles_of

TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)


def with_variance(table, shape):
    """Return a table with I(t) = shape(t) for every tokenizer."""
    base = table[table["metric"] == "velocity.viv"]
    curves = [
        base.assign(
            metric=f"velocity.curve_t{100 * t:02.0f}", value=shape(t), options=f'{{"t": {t}}}'
        )
        for t in TIMES
    ]
    return check_measurements(pd.concat([table, *curves], ignore_index=True))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_variance_along_the_trajectory(sign):
    table = with_variance(measurement_table(6, backbones=("sit-b",)), lambda t: 3 + sign * t)
    profiles = profiles_of(table)
    profiles["value"] = 1 + 0.2 * profiles["time"]  # linear, as the variance is
    found = variance_relations(Measured(table), profiles, "sit-b", 1.0)
    assert len(found) == 6
    assert list(found.values()) == pytest.approx([sign] * 6)
    unmeasured = measurement_table(6, backbones=("sit-b",))
    assert not variance_relations(Measured(unmeasured), profiles, "sit-b", 1.0)


def test_deviation_from_a_straight_line():
    table = measurement_table(6, backbones=("sit-b",))
    profiles = profiles_of(table)
    found = deviations(profiles, "sit-b", 1.0)
    gaps = profiles.assign(gap=(profiles["value"] - 1).abs()).groupby("tokenizer")["gap"].mean()
    assert found == pytest.approx(gaps.to_dict())


def sampled(plan):
    """Write the samples of a plan: every run the same profile, shifted by its seed."""
    for artifact in plan.of_stage("samples"):
        job = Job.from_json(artifact.job())
        with job.writing() as folder:
            shift = 0.1 * int(artifact.labels["seed"]) + 0.3 * int(
                artifact.labels["tokenizer_seed"]
            )
            notes = {"images": 50, "length_ratio": [0.9 + shift, 1.1 + shift]}
            notes["length_ratio_stderr"] = [0.01, 0.02]
            (folder / "samples.json").write_text(json.dumps(notes))
            (folder / "samples.png").write_bytes(b"picture")


def test_collected_from_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    select = {"dataset": "digits", "repeats": {"conv-base": {"seeds": [1]}}}
    plan = Plan(load_study(REPOSITORY / "studies" / "smoke.yaml", {"select": select}))
    sampled(plan)
    table = collect_profiles(plan).set_index(["tokenizer", "backbone", "segment"])
    assert len(table) == 2 * 2 * 2
    repeated, single = (
        table.loc[("conv-base", "sit-a", 0)],
        table.loc[("conv-vf-glyph", "sit-a", 1)],
    )
    assert (repeated["time"], single["time"]) == (0.25, 0.75)
    assert (repeated["runs"], single["runs"]) == (2, 1)
    assert repeated["value"] == pytest.approx(0.95)
    assert repeated["stderr"] == pytest.approx(0.05)  # |0.9 - 1.0| / 2
    assert (single["value"], single["stderr"], single["n"]) == (1.1, 0.02, 50)
    assert table["note"].eq("").all()
    repeats = {"conv-base": {"seeds": [1], "tokenizer_seeds": [1]}}
    plan = Plan(
        load_study(REPOSITORY / "studies" / "smoke.yaml", {"select": select | {"repeats": repeats}})
    )
    sampled(plan)
    nested = collect_profiles(plan).set_index(["tokenizer", "backbone", "segment"])
    both = nested.loc[("conv-base", "sit-a", 0)]
    assert both["runs"] == 3
    assert both["value"] == pytest.approx((0.95 + 1.2) / 2)  # two models of one training, one
    assert both["stderr"] == pytest.approx(0.125)
    first = plan.of_stage("samples")[0]
    (tmp_path / first.path / "samples.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"samples\.json has 2 bytes"):
        collect_profiles(plan)
