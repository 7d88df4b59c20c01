"""Profiles along trajectories: collected from samples, related to quality and to variance."""

import json

import numpy as np
import pandas as pd
import pytest

from diffusability.analysis.intervals import AnalysisOptions
from diffusability.analysis.measurements import check_measurements
from diffusability.analysis.panels import cells
from diffusability.analysis.sampling import collect_profiles, relate_profiles
from diffusability.artifacts.job import Job
from diffusability.errors import ArtifactError
from diffusability.study.load import load_study
from diffusability.study.plan import Plan
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import measurement_table, profiles_of

QUICK = AnalysisOptions(resamples=199)
TARGET = "generation.fd_judge"
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


def test_deviation_is_turned_so_that_better_means_closer():
    table = measurement_table(12, backbones=("sit-b",))
    profiles = profiles_of(table)
    found = relate_profiles(table, profiles, QUICK)
    row = found[found["statistic"] == "deviation_vs_target"].iloc[0]
    gaps = profiles.assign(gap=(profiles["value"] - 1).abs()).groupby("tokenizer")["gap"].mean()
    y = cells(table, TARGET, TARGET, "sit-b", 1.0).rows.set_index("tokenizer")["y"]
    assert row["value"] == pytest.approx(np.corrcoef(gaps[y.index], y)[0, 1])
    assert row["low"] < row["value"] < row["high"]
    turned = table["metric"] == TARGET
    mirror = table.assign(
        value=table["value"].where(~turned, -table["value"]),
        higher_is_better=table["higher_is_better"].where(~turned, True),
    )
    again = relate_profiles(mirror, profiles, QUICK)
    assert again["value"].iloc[0] == pytest.approx(row["value"])


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, -1.0)])
def test_variance_along_the_trajectory(sign, expected):
    table = with_variance(measurement_table(6, backbones=("sit-b",)), lambda t: 3 + sign * t)
    profiles = profiles_of(table)
    profiles["value"] = 1 + 0.2 * profiles["time"]  # linear, as the variance is
    found = relate_profiles(table, profiles, QUICK)
    row = found[found["statistic"] == "ratio_vs_variance"].iloc[0]
    assert row["value"] == pytest.approx(expected)
    assert row["target"] == ""
    assert row["n"] == 6


def test_mean_over_tokenizers_has_the_interval_of_a_mean():
    rng = np.random.default_rng(0)
    table = with_variance(measurement_table(24, backbones=("sit-b",)), lambda t: t)
    profiles = profiles_of(table)
    profiles["value"] = profiles["time"] + rng.normal(size=len(profiles))
    found = relate_profiles(table, profiles, AnalysisOptions(resamples=1999))
    row = found[found["statistic"] == "ratio_vs_variance"].iloc[0]
    along = [np.corrcoef(p["time"], p["value"])[0, 1] for _, p in profiles.groupby("tokenizer")]
    assert row["value"] == pytest.approx(np.mean(along))
    error = np.std(along, ddof=1) / 24**0.5
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.2)


def sampled(plan):
    """Write the samples of a plan: every run the same profile, shifted by its seed."""
    for artifact in plan.of_stage("samples"):
        job = Job.from_json(artifact.job())
        with job.writing() as folder:
            shift = 0.1 * int(artifact.labels["seed"])
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
    first = plan.of_stage("samples")[0]
    (tmp_path / first.path / "samples.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"samples\.json has 2 bytes"):
        collect_profiles(plan)
