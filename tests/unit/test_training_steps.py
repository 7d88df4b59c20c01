"""The column `step`: results are of the last one, correlations of each; and their figure."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from diffusability.analysis.catalogue import HEADLINE_METRICS
from diffusability.analysis.measurements import check_measurements
from diffusability.analysis.panels import Measured
from diffusability.analysis.snapshots import (
    at_last_step,
    earlier_snapshots,
    fill_steps,
    last_steps,
)
from diffusability.errors import MeasurementError
from diffusability.figures.results import Results, reference_scope
from diffusability.figures.style import MEANINGLESS
from diffusability.figures.training_steps import (
    control_level,
    correlations_by_step,
    draw_training_steps,
)
from diffusability.study.study import AnalysisSpec
from tests.unit.measurement_table import analysed, measurement_table, profiles_of

TARGET = "generation.fd_judge"
QUICK = AnalysisSpec()
STEPS = {"sit-b": (100, 300, 900), "lightningdit-b": (200,)}


def with_steps(table: pd.DataFrame) -> pd.DataFrame:
    """The made-up table, whose models are copied to earlier steps with more and more noise."""
    rng, parts = np.random.default_rng(0), [table[table["backbone"] == ""]]
    for backbone, steps in STEPS.items():
        own = table[table["backbone"] == backbone]
        for step in steps:
            noise = rng.normal(scale=30 * (step < steps[-1]), size=len(own))
            parts.append(own.assign(step=step, value=own["value"] + noise))
    control = table[table["metric"] == "velocity.viv"]
    control = control.assign(metric="control.gaussian.fd_judge", higher_is_better=False)
    return check_measurements(pd.concat([*parts, control]))


@pytest.fixture(scope="module")
def plain() -> pd.DataFrame:
    """A study without snapshots."""
    return measurement_table(8, seeds=2, retrained=1)


@pytest.fixture(scope="module")
def table(plain: pd.DataFrame) -> pd.DataFrame:
    """The same with snapshots."""
    return with_steps(plain)


@pytest.fixture(scope="module")
def results(table: pd.DataFrame) -> Results:
    """Its tables."""
    tables = analysed(table, QUICK, profiles=profiles_of(at_last_step(table)))
    numbers = {name: k for k, name in enumerate(dict.fromkeys(table["tokenizer"]), start=1)}
    return Results({"measurements": table, **tables}, numbers, TARGET)


def test_the_last_step_of_each_backbone_is_meant(table: pd.DataFrame) -> None:
    assert last_steps(table) == {"sit-b": 900, "lightningdit-b": 200}
    last = at_last_step(table)
    assert set(last.loc[last["backbone"] == "sit-b", "step"]) == {900}
    assert (last["backbone"] == "").sum() == (table["backbone"] == "").sum()
    assert len(Measured(table).table) == len(last)
    assert at_last_step(last) is last
    found = [(step, set(part["backbone"])) for step, part in earlier_snapshots(table)]
    assert found == [(100, {"", "sit-b"}), (300, {"", "sit-b"})]


def test_two_values_at_one_step_are_refused_and_at_two_steps_are_not(table: pd.DataFrame) -> None:
    with pytest.raises(MeasurementError, match="step 100"):
        check_measurements(pd.concat([table, table[table["step"] == 100]]))


def test_empty_steps_are_those_of_the_backbone() -> None:
    frame = pd.DataFrame(
        {"backbone": ["a", "a", ""], "step": pd.array([None, 3, None], dtype="Int64")}
    )
    assert fill_steps(frame, {"a": 9})["step"].tolist() == [9, 3, pd.NA]


def test_all_tables_are_those_of_the_last_step_and_correlations_go_on(
    plain: pd.DataFrame, table: pd.DataFrame, results: Results
) -> None:
    alone = analysed(plain, QUICK)
    for name, expected in alone.items():
        found = at_last_step(results.tables[name])
        if "step" in found and "backbone" in found:
            assert set(found.loc[found["backbone"] != "", "step"]) <= {900, 200}, name
            found = found.assign(step=pd.array([None] * len(found), dtype="Int64"))
        pd.testing.assert_frame_equal(found, expected, obj=name)
    correlations = results.tables["correlations"]
    steps = correlations.groupby("backbone")["step"].unique().map(lambda s: sorted(s.tolist()))
    assert steps.to_dict() == {"sit-b": [100, 300, 900], "lightningdit-b": [200]}


def test_the_correlation_of_an_earlier_step_is_that_of_its_values(
    table: pd.DataFrame, results: Results
) -> None:
    own = table[(table["metric"] == TARGET) & (table["step"] == 300)]
    y = own.groupby(["tokenizer", "tokenizer_seed"])["value"].mean().groupby("tokenizer").mean()
    viv = table[table["metric"] == "velocity.viv"].groupby("tokenizer")["value"].mean()
    wanted = {"target": TARGET, "backbone": "sit-b", "metric": "velocity.viv"}
    found = results.row("correlations", **wanted, step=300)
    assert found["pearson"] == pytest.approx(np.corrcoef(viv, y[viv.index])[0, 1], abs=1e-5)
    assert results.row("correlations", **wanted)["step"] == 900


def test_the_figure_shows_r_of_every_step_with_its_interval(results: Results) -> None:
    figure = draw_training_steps(results)
    scope = reference_scope(results, TARGET)
    found = correlations_by_step(results, scope, "velocity.viv")
    assert found["step"].tolist() == [100, 300, 900]
    assert (found["low"] <= found["r"]).all()
    assert (found["r"] <= found["high"]).all()
    images, viv_panel = figure.axes[:2]  # the backbone without snapshots has no row
    assert len(figure.axes) == 1 + sum(
        results.measured(of) is not None for of in HEADLINE_METRICS.values()
    )
    assert viv_panel.get_title().startswith("VIV\n")
    lines = [line for line in viv_panel.lines if len(line.get_xdata()) == 3]
    assert any(np.allclose(line.get_ydata(), found["r"]) for line in lines)
    zero, *_ = viv_panel.lines
    assert list(zero.get_ydata()) == [0, 0]
    level = control_level(results.measurements, scope, "gaussian")
    viv = results.measurements[results.measurements["metric"] == "velocity.viv"]
    assert level == pytest.approx(viv.groupby("tokenizer")["value"].mean().median())
    assert any(np.allclose(line.get_ydata(), level) for line in images.lines)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "decoded Gaussian fit" in legend
    bars = [c for c in viv_panel.collections if isinstance(c, LineCollection)]
    ends = np.array([segment[:, 1] for segment in bars[0].get_segments()])
    np.testing.assert_allclose(ends, found[["low", "high"]])


def test_correlations_of_failed_models_are_marked_and_drawn_in_grey(table: pd.DataFrame) -> None:
    early = (table["step"] == 100).fillna(False)
    failing = table.assign(failed=pd.array(early.astype(bool), dtype="boolean"))
    tables = analysed(failing, QUICK, profiles=profiles_of(at_last_step(table)))
    own = tables["correlations"]
    own = own[(own["backbone"] == "sit-b") & (own["target"] == TARGET)]
    marks = own.groupby("step")["failed"].agg(["all", "any"])
    assert marks["all"].to_dict() == marks["any"].to_dict() == {100: True, 300: False, 900: False}
    numbers = {name: k for k, name in enumerate(dict.fromkeys(table["tokenizer"]), start=1)}
    study = Results({"measurements": failing, **tables}, numbers, TARGET)
    scope = reference_scope(study, TARGET)
    found = correlations_by_step(study, scope, "velocity.viv")
    assert found["meaningless"].tolist() == [True, False, False]
    axis = next(a for a in draw_training_steps(study).axes if a.get_title().startswith("VIV"))
    grey = [line for line in axis.get_lines() if line.get_color() == MEANINGLESS]
    assert [line.get_xdata().tolist() for line in grey] == [[100]]
