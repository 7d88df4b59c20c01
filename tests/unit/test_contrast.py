"""`diffusability compare`: two studies or two tokenizers, with and without tables."""

import math

import pytest
from scipy import stats

from diffusability.analysis.panels import Measured, cells
from diffusability.cli import main
from diffusability.report.compare import compare_specs, compare_studies, compare_tokenizers
from diffusability.study.planning.targets import table_file
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import measurement_table

SMOKE = str(REPOSITORY / "studies" / "smoke.yaml")
TARGET = "generation.fd_judge"


def test_specs_key_by_key():
    a = {"same": 1, "deep": {"x": 1, "y": [1, 2]}, "old": {"z": 1}}
    b = {"same": 1, "deep": {"x": 2, "y": [1, 2]}, "new": 3}
    found = compare_specs(a, b).set_index("key")
    assert found.to_dict("index") == {
        "deep.x": {"a": "1", "b": "2"},
        "old": {"a": "present", "b": "(absent)"},
        "new": {"a": "(absent)", "b": "3"},
    }
    assert compare_specs(a, a).empty


def test_two_tokenizers_by_hand():
    table = measurement_table(6, backbones=("sit-b",))
    found = compare_tokenizers(Measured(table), "t00", "t05", ["generation.*", "velocity.viv"])
    row = found.set_index("metric").loc[TARGET]
    means = cells(table, TARGET, TARGET, "sit-b", 1.0).rows.set_index("tokenizer")
    a, b = means.loc["t00"], means.loc["t05"]
    assert row["difference"] == pytest.approx(b["y"] - a["y"])
    error = math.hypot(a["y_stderr"], b["y_stderr"])
    assert row["stderr"] == pytest.approx(error)
    assert not row["better"]
    assert row["note"] == ""  # each was trained several times
    # two standard errors of few trainings each: Welch's degrees of freedom
    runs = cells(table, TARGET, TARGET, "sit-b", 1.0).runs.groupby("tokenizer")
    trainings = runs["tokenizer_seed"].nunique()
    df = {n: (trainings[n] if trainings[n] > 1 else runs.size()[n]) - 1 for n in ("t00", "t05")}
    welch = error**4 / (a["y_stderr"] ** 4 / df["t00"] + b["y_stderr"] ** 4 / df["t05"])
    assert row["high"] - row["low"] == pytest.approx(2 * stats.t.ppf(0.975, welch) * error)
    order = list(means["y"].sort_values().index)  # lower is better
    assert (row["rank_a"], row["rank_b"]) == (order.index("t00") + 1, order.index("t05") + 1)
    assert list(found["metric"]) == ["velocity.viv", TARGET]


def test_ranks_and_orders_are_those_of_one_family():
    families = 3 * ("conv",) + 3 * ("trans",)
    table = measurement_table(12, backbones=("sit-b",), families=families)
    shifted = table["family"].eq("trans") & table["metric"].eq(TARGET)
    table.loc[shifted, "value"] += 1000  # another judge
    found = compare_tokenizers(Measured(table), "t00", "t03", [TARGET]).iloc[0]
    assert (found["of_a"], found["of_b"]) == (6, 6)
    assert found["rank_b"] <= 6
    orders = compare_studies(Measured(table), Measured(table), [TARGET])[1]
    assert orders["family"].tolist() == ["conv", "trans"]
    assert orders["kendall"].tolist() == pytest.approx([1.0, 1.0])
    assert orders["n"].tolist() == [6, 6]


def test_directions_and_missing_numbers():
    table = measurement_table(4, backbones=("sit-b",))
    table = table[~((table["metric"] == "spatial.srss") & (table["tokenizer"] == "t03"))]
    single = table["tokenizer"].isin(["t03"]) & (table["metric"] == "smoothness.sec25")
    table = table.assign(stderr=table["stderr"].where(~single))
    found = compare_tokenizers(Measured(table), "t03", "t01").set_index("metric")
    assert found.loc["spatial.srss", "note"] == "not measured on a"
    assert math.isnan(found.loc["spatial.srss", "difference"])
    assert "no interval" in found.loc["smoothness.sec25", "note"]
    assert found.loc["spatial.rmsc", ["rank_a", "rank_b"]].isna().all()  # no declared direction
    psnr = cells(table, "reconstruction.psnr", "reconstruction.psnr", "", None).rows
    best = psnr.loc[psnr["y"].idxmax(), "tokenizer"]
    ranks = compare_tokenizers(Measured(table), best, "t03").set_index("metric")
    assert ranks.loc["reconstruction.psnr", "rank_a"] == 1  # higher is better


def test_two_studies_and_the_order_of_their_tokenizers():
    a = measurement_table(6, backbones=("sit-b",))
    b = measurement_table(8, backbones=("sit-b",), noise=0.5)
    rows, orders = compare_studies(Measured(a), Measured(b), [TARGET])
    assert len(rows) == 8
    assert (rows.set_index("tokenizer").loc[["t06", "t07"], "note"] == "not measured on a").all()
    means = [cells(t, TARGET, TARGET, "sit-b", 1.0).rows["y"][:6] for t in (a, b)]
    (order,) = orders.to_dict("records")
    assert order["kendall"] == pytest.approx(stats.kendalltau(*means).statistic)
    assert order["n"] == 6
    few = compare_studies(Measured(measurement_table(2)), Measured(b), [TARGET])[1]
    assert few["note"].str.contains("2 tokenizers in both").any()


def made_table(path, scale=1.0):
    """Write a tidy table of the two tokenizers of the smoke study."""
    table = measurement_table(2, backbones=("sit-a",))
    names = {"t00": "conv-base", "t01": "conv-vf-glyph"}
    table = table.assign(tokenizer=table["tokenizer"].map(names), value=scale * table["value"])
    path.parent.mkdir(parents=True)
    table.to_csv(path, index=False)


def test_command_on_tokenizers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--configfile", SMOKE, "conv-base", "conv-vf-glyph"]) == 0
    output = capsys.readouterr().out
    assert "regularizer.method baseline mcos+mdms" in output
    assert "measurements.csv: does not exist yet. Make it with: snakemake" in output
    made_table(tmp_path / table_file(load_study(SMOKE), "measurements"))
    assert main(["compare", "--configfile", SMOKE, "conv-base", "conv-vf-glyph"]) == 0
    output = capsys.readouterr().out
    assert "velocity.viv" in output
    assert "of 2 -> " in output
    assert "velocity.tau" not in output
    assert main(["compare", "--configfile", SMOKE, "--all", "conv-base", "conv-vf-glyph"]) == 0
    assert "velocity.tau" in capsys.readouterr().out


def test_command_on_studies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "studies" / "smoke.yaml").read_text()
    other = text.replace("name: smoke", "name: other").replace("depth: 2", "depth: 3")
    (tmp_path / "other.yaml").write_text(other)
    made_table(tmp_path / table_file(load_study(SMOKE), "measurements"))
    assert main(["compare", SMOKE, "other.yaml"]) == 0
    output = capsys.readouterr().out
    assert "backbones.sit-a.depth" in output
    assert "results/tables/other/measurements.csv: does not exist yet" in output
    made_table(tmp_path / table_file(load_study("other.yaml"), "measurements"), scale=2.0)
    assert main(["compare", SMOKE, "other.yaml"]) == 0
    output = capsys.readouterr().out
    assert "Note: results/tables/smoke/measurements.csv: contains measurements of another" in output
    assert "Kendall's tau" in output
    assert "2 tokenizers in both: no agreement of orders" in output


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["conv-bse", "conv-base"], "did you mean `conv-base`"),
        ([SMOKE, "conv-base"], "(the other is no study file)"),
    ],
)
def test_what_cannot_be_compared(names, message, capsys):
    assert main(["compare", "--configfile", SMOKE, *names]) == 2
    assert message in capsys.readouterr().err
