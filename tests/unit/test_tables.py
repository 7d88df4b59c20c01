"""The tidy table: what is refused, and how a metric is paired with a target."""

import json

import numpy as np
import pandas as pd
import pytest

from diffusability.analysis.frames import read_table, table_frame, write_table
from diffusability.analysis.measurements import check_measurements, read_measurements
from diffusability.analysis.panels import (
    Measured,
    best_guidance,
    cells,
    expected_sign,
    panels,
    predictors,
)
from diffusability.errors import MeasurementError
from diffusability.study.planning.tables import BEST, TABLES


def row(tokenizer, metric, value, *, ts=0, backbone="", seed="", guidance="", up=True, **more):
    """Return one row of a tidy table."""
    return {
        "study": "s",
        "dataset": "d",
        "tokenizer": tokenizer,
        "family": "conv-f2d4",
        "cluster": "baseline",
        "tokenizer_seed": ts,
        "backbone": backbone,
        "seed": seed,
        "guidance": guidance,
        "metric": metric,
        "value": value,
        "stderr": 0.5,
        "n": 10,
        "unit": "1",
        "higher_is_better": up,
        "flags": "",
        "options": json.dumps({}),
        "fingerprint": "f0",
    } | more


def run(tokenizer, value, **more):
    """Return a generation row of backbone b at guidance 1."""
    more = {"backbone": "b", "seed": 0, "guidance": 1.0, "up": False} | more
    return row(tokenizer, "generation.fd_judge", value, **more)


def small():
    """Two tokenizers, one retrained, three diffusion seeds."""
    return [
        row("a", "velocity.viv", 1.0, up=False),
        row("a", "velocity.viv", 3.0, up=False, ts=1),
        row("b", "velocity.viv", 5.0, up=False),
        run("a", 10.0),
        run("a", 14.0, seed=1),
        run("a", 20.0, ts=1),
        run("b", 7.0),
    ]


def test_csv_and_frame_agree(tmp_path):
    frame = pd.DataFrame(small())
    frame.to_csv(tmp_path / "m.csv", index=False)
    read, checked = read_measurements(tmp_path / "m.csv"), check_measurements(frame)
    pd.testing.assert_frame_equal(read[sorted(read)], checked[sorted(checked)])
    pd.testing.assert_frame_equal(checked, check_measurements(checked))
    assert str(read["seed"].dtype) == "Int64"
    assert read["value"].dtype == np.float64
    assert str(read["higher_is_better"].dtype) == "boolean"
    assert read.loc[0, "backbone"] == ""
    assert pd.isna(read.loc[0, "guidance"])


def test_a_tokenizer_may_be_called_nan(tmp_path):
    pd.DataFrame([row("nan", "velocity.viv", 1.0)]).to_csv(tmp_path / "m.csv", index=False)
    assert read_measurements(tmp_path / "m.csv").loc[0, "tokenizer"] == "nan"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([run("a", 1.0), run("a", 2.0)], "one cell is given 2 times .*tokenizer a"),
        ([run("a", 1.0), run("a", 1.0, fingerprint="f1")], "fingerprints f0, f1"),
        ([run("a", 1.0), run("b", 1.0, study="t")], "2 different values of study"),
        ([run("a", 1.0), run("b", 1.0, dataset="t")], "2 different values of dataset"),
        ([run("a", 1.0), run("a", 1.0, seed=1, cluster="eq")], "tokenizer a has 2 .* cluster"),
        ([run("a", 1.0), run("b", 1.0, unit="m")], "metric generation.fd_judge has 2 .* unit"),
        ([run("a", 1.0), run("b", 1.0, up=True)], "2 different values of higher_is_better"),
        ([run("a", "high")], "column value, row 0: 'high' is not a number"),
        ([run("a", float("inf"))], "infinite"),
        ([run("a", 1.0, ts="")], "no tokenizer_seed"),
        ([run("a", 1.0, seed=0.5)], "seed holds a number that is not an integer"),
        ([run("a", 1.0, up="yes")], "higher_is_better holds 'yes'"),
    ],
)
def test_bad_tables_are_refused(rows, message):
    with pytest.raises(MeasurementError, match=message):
        check_measurements(pd.DataFrame(rows))


def test_a_declared_empty_cell_knows_neither_unit_nor_direction():
    """A tokenizer that cannot have a number has an empty cell, whatever the metric's unit."""
    empty = run("b", "", unit="nat/dim", up="", stderr="", flags="not applicable: deterministic")
    assert len(check_measurements(pd.DataFrame([run("a", 1.0), empty]))) == 2


def test_missing_columns_and_empty_tables_are_refused(tmp_path):
    frame = pd.DataFrame(small())
    with pytest.raises(MeasurementError, match="columns guidance, stderr are missing"):
        check_measurements(frame.drop(columns=["stderr", "guidance"]))
    with pytest.raises(MeasurementError, match="no measurement"):
        check_measurements(pd.DataFrame(columns=list(TABLES["measurements"].columns)))
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_measurements(tmp_path / "nowhere.csv")


def test_cells_average_seeds_then_tokenizer_seeds():
    table = check_measurements(pd.DataFrame(small()))
    found = cells(table, "velocity.viv", "generation.fd_judge", "b", 1.0)
    a, b = found.rows.to_dict("records")
    assert (a["x"], a["y"]) == (2.0, (12.0 + 20.0) / 2)  # not (10 + 14 + 20)/3
    assert a["y_stderr"] == pytest.approx(np.std([12, 20], ddof=1) / 2**0.5)
    assert (b["x"], b["y"], b["y_stderr"]) == (5.0, 7.0, 0.5)  # of the measurement
    assert found.missing.empty
    assert list(found.runs["y"]) == [10.0, 14.0, 20.0, 7.0]


def test_diffusion_seeds_give_the_error_of_a_single_trained_tokenizer():
    rows = [row("a", "velocity.viv", 1.0), *(run("a", v, seed=v) for v in (1, 2, 6))]
    found = cells(check_measurements(pd.DataFrame(rows)), "velocity.viv", rows[1]["metric"], "b", 1)
    line = found.rows.iloc[0]
    assert line["y_stderr"] == pytest.approx(np.std([1, 2, 6], ddof=1) / 3**0.5)
    assert line["x_stderr"] == 0.5  # of the measurement: the metric does not depend on the seed


def test_what_is_missing_is_said():
    rows = [
        *small(),
        row("c", "velocity.viv", 1.0, up=False),
        run("d", 1.0),
        run("b", 2.0, ts=7),
        row("e", "spatial.srss", 1.0),
        row("f", "velocity.viv", "", up=False),
        run("f", 3.0),
    ]
    table = check_measurements(pd.DataFrame(rows))
    found = cells(table, "velocity.viv", "generation.fd_judge", "b", 1.0)
    assert list(found.rows["tokenizer"]) == ["a", "b"]
    lost = found.missing.set_index("tokenizer")
    assert lost.loc["c", "reason"] == "no value of generation.fd_judge"
    assert lost.loc["d", "reason"] == lost.loc["f", "reason"] == "no value of velocity.viv"
    assert lost.loc["e", "reason"] == "no value of velocity.viv and generation.fd_judge"
    assert list(lost.index) == ["c", "d", "e", "f"]
    assert list(found.unpaired["tokenizer"]) == ["b"]
    assert "4 of 6 tokenizers left out: c, d, e, f" in found.missing_note()
    assert "1 unpaired runs left out of the means of: b" in found.missing_note()
    assert found.of_family("other").rows.empty


def test_metrics_of_diffusion_runs_are_matched_run_by_run():
    kind = {"backbone": "b", "guidance": 1.0}
    rows = [run("a", 1.0), run("a", 3.0, seed=1), run("a", 9.0, backbone="c")]
    rows += [row("a", "trajectory.straightness", 0.5, seed=1, **kind)]
    rows += [row("a", "trajectory.straightness", 0.9, seed=1, backbone="c", guidance=1.0)]
    table = check_measurements(pd.DataFrame(rows))
    found = cells(table, "trajectory.straightness", "generation.fd_judge", "b", 1.0)
    assert found.rows.loc[0, ["x", "y"]].tolist() == [0.5, 3.0]
    assert len(found.runs) == 1
    assert found.missing.empty
    assert found.unpaired["tokenizer"].tolist() == ["a"]


def test_metrics_of_a_trained_model_hold_at_every_guidance_scale():
    rows = [
        run("a", 5.0, guidance=1.0),
        run("a", 3.0, guidance=1.5),
        run("a", 4.0, guidance=1.0, seed=1),
    ]
    rows += [run("b", 1.0, guidance=1.0), run("b", 2.0, guidance=1.5)]
    rows += [row(t, "fisher.learned_fir", x, backbone="b", seed=0) for t, x in (("a", 7), ("b", 8))]
    rows += [row("c", "fisher.learned_fir", 9.0, backbone="b", seed=0)]
    table = check_measurements(pd.DataFrame(rows))
    for scale, y in ((1.0, [5.0, 1.0]), (1.5, [3.0, 2.0]), (BEST, [3.0, 1.0])):
        found = cells(table, "fisher.learned_fir", "generation.fd_judge", "b", scale)
        assert found.rows["x"].tolist() == [7.0, 8.0]
        assert found.rows["y"].tolist() == y  # seed 1 was not measured: not in the mean
    lost = found.missing.set_index("tokenizer")
    assert lost.loc["c", "reason"] == "no value of generation.fd_judge"


def test_best_guidance_follows_the_direction_of_the_target():
    rows = [run("a", v, guidance=c) for c, v in ((1.0, 5.0), (1.5, 3.0), (2.0, 3.0))]
    rows += [run("b", v, guidance=c) for c, v in ((1.0, 1.0), (1.5, 2.0))]
    rows += [row(t, "velocity.viv", 1.0) for t in "ab"]
    table = check_measurements(pd.DataFrame(rows))
    assert best_guidance(table, "generation.fd_judge", "b")[0] == {"a": 1.5, "b": 1.0}
    found = cells(table, "velocity.viv", "generation.fd_judge", "b", BEST)
    assert found.rows["y"].tolist() == [3.0, 1.0]
    assert found.rows["guidance"].tolist() == [1.5, 1.0]
    same = cells(table, "generation.fd_judge", "generation.fd_judge", "b", BEST)
    assert same.missing.empty
    assert [p.guidance for p in panels(table)] == [1.0, 1.5, 2.0, BEST]
    higher = check_measurements(table.assign(higher_is_better=True))
    assert best_guidance(higher, "generation.fd_judge", "b")[0] == {"a": 1.0, "b": 1.5}
    undirected = check_measurements(table.assign(higher_is_better=None))
    found = cells(undirected, "velocity.viv", "generation.fd_judge", "b", BEST)
    assert "has no direction" in found.missing["reason"].iloc[0]


def test_roles_of_metrics():
    rows = [*small(), row("a", "velocity.curve_t05", 1.0), row("a", "spatial.rmsc", 1.0, up="")]
    table = check_measurements(pd.DataFrame(rows))
    assert predictors(table) == ["velocity.viv", "spatial.rmsc"]
    assert Measured(table).families == ["conv-f2d4"]
    two = table.assign(family=table["tokenizer"])
    assert Measured(two).families == ["a", "b"]
    assert expected_sign(table, "velocity.viv", "generation.fd_judge") == 1
    assert expected_sign(table, "velocity.curve_t05", "generation.fd_judge") == -1
    assert expected_sign(table, "spatial.rmsc", "generation.fd_judge") is None


def test_readers_use_the_declared_types(tmp_path):
    """Text is text even where it looks like a number, and a wrong cell is refused by name."""
    path = tmp_path / "guidance.csv"
    row = {"target": "1", "backbone": "nan", "value": 0.123456789, "n": 3}
    write_table(path, table_frame("guidance", [row]))
    (read,) = read_table(path).to_dict("records")
    assert (read["target"], read["backbone"], read["note"], read["n"]) == ("1", "nan", "", 3.0)
    assert read["value"] == 0.123457  # analysed numbers keep six digits
    assert np.isnan(read["low"])
    path.write_text(path.read_text().replace("0.123457", "much"))
    with pytest.raises(MeasurementError, match="column value, row 0: 'much' is not a number"):
        read_table(path)
    path.write_text("target,value\n")
    with pytest.raises(MeasurementError, match="columns backbone, step, family, .* are missing"):
        read_table(path)


def test_measurements_keep_every_digit(tmp_path):
    rows = [row("a", "velocity.viv", 0.1234567890123)]
    write_table(tmp_path / "measurements.csv", check_measurements(pd.DataFrame(rows)))
    assert read_measurements(tmp_path / "measurements.csv")["value"].item() == 0.1234567890123
