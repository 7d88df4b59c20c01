"""The table of correlations: numbers by other means, directions, influence, chance."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from diffusability.analysis.correlation import correlate, intercorrelate
from diffusability.analysis.pairing import means_by_tokenizer
from diffusability.analysis.panels import Measured, Panel, at_chance, cells, paired
from diffusability.study.planning.tables import BEST, TABLES
from tests.unit.measurement_table import measurement_table

TARGET, LNC, PSNR = "generation.fd_judge", "semantics.lnc5", "reconstruction.psnr"


@pytest.fixture(scope="module")
def table():
    return measurement_table(24, backbones=("sit-b",))


@pytest.fixture(scope="module")
def found(table):
    return correlate(table)


def of(found, metric, **more):
    rows = found[(found["metric"] == metric) & (found["target"] == TARGET)]
    for column, value in more.items():
        rows = rows[rows[column] == value]
    (row,) = rows.to_dict("records")
    return row


def test_numbers_are_those_of_scipy_and_of_residuals(table, found):
    rows = cells(table, LNC, TARGET, "sit-b", 1.0).rows
    psnr = cells(table, PSNR, TARGET, "sit-b", 1.0).rows["x"]
    row = of(found, LNC)
    assert row["pearson"] == pytest.approx(stats.pearsonr(rows["x"], rows["y"]).statistic)
    assert row["spearman"] == pytest.approx(stats.spearmanr(rows["x"], rows["y"]).statistic)
    left = [v - np.polyval(np.polyfit(psnr, v, 1), psnr) for v in (rows["x"], rows["y"])]
    assert row["pearson_partial"] == pytest.approx(np.corrcoef(*left)[0, 1])
    for name in ("pearson", "spearman", "pearson_partial"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert np.isnan(of(found, PSNR)["pearson_partial"])
    assert (row["n"], row["clusters"]) == (24, 6)


def test_direction_is_declared_and_not_applied(found):
    viv, lnc = of(found, "velocity.viv"), of(found, LNC)
    assert (viv["expected_sign"], lnc["expected_sign"]) == (1, -1)
    assert viv["pearson"] > 0 > lnc["pearson"]


def test_a_metric_without_a_direction_has_no_expected_sign():
    def neutral(frame):
        up = frame["higher_is_better"].where(frame["metric"] != LNC)
        return frame.assign(higher_is_better=up)

    found = correlate(measurement_table(8, backbones=("sit-b",), edit=neutral))
    assert np.isnan(of(found, LNC)["expected_sign"])
    assert of(found, "velocity.viv")["expected_sign"] == 1


def test_p_is_that_of_the_interval_and_corrected_over_a_panel(found):
    rows = found[found["target"] == TARGET]
    assert ((rows["pearson_p"] < 0.05) == (rows["pearson_low"] * rows["pearson_high"] > 0)).all()
    assert rows["pearson_p_holm"].to_numpy() == pytest.approx(
        multipletests(rows["pearson_p"], method="holm")[1]
    )
    assert rows["pearson_p_by"].to_numpy() == pytest.approx(
        multipletests(rows["pearson_p"], method="fdr_by")[1]
    )


def test_the_tokenizer_that_carries_a_correlation_is_named():
    def pulled(frame):
        own = frame["tokenizer"] == "t07"
        moved = own & frame["metric"].isin([PSNR, TARGET])
        return frame.assign(value=frame["value"].where(~moved, 500.0))

    row = of(correlate(measurement_table(12, backbones=("sit-b",), edit=pulled)), PSNR)
    assert row["influential"] == "t07"
    assert row["pearson"] > 0.9
    assert row["without_low"] < 0.6 < row["without_high"]
    # t01 and t07 are of one cluster: without both
    table = Measured(measurement_table(12, backbones=("sit-b",), edit=pulled))
    points = paired(table, PSNR, Panel(TARGET, "sit-b", 1.0), row["family"]).rows
    rest = points[~points["tokenizer"].isin(["t01", "t07"])]
    assert len(rest) == 10
    assert row["without_cluster_low"] == pytest.approx(rest["x"].corr(rest["y"]))
    assert row["influential_cluster"] == "mcos+mdms"


def test_families_are_never_pooled_and_small_ones_have_no_row():
    names = ("conv-a", "conv-a", "conv-a", "conv-a", "vit-b", "conv-c")
    found = correlate(measurement_table(13, families=names))
    assert set(found["family"]) == {"conv-a"}  # of vit-b and conv-c there are two each
    several = correlate(measurement_table(12, scales=(1.0, 1.5), families=("a", "b")))
    assert set(several["family"]) == {"a", "b"}
    assert set(several["guidance"]) == {1.0, 1.5, BEST}


def test_a_metric_at_chance_is_marked():
    def with_chance(frame):
        lnc = frame["metric"] == LNC
        values = 0.085 + 0.005 * frame["value"]
        options = json.dumps({"chance": 1 / 12, "ceiling": 1.0})
        return frame.assign(
            value=frame["value"].where(~lnc, values), options=frame["options"].where(~lnc, options)
        )

    table = measurement_table(12, backbones=("sit-b",), edit=with_chance)
    found = correlate(table)
    assert of(found, LNC)["at_chance"]
    assert not of(found, "spatial.srss")["at_chance"]
    left = table.assign(value=table["value"].where(table["metric"] != LNC, table["value"] + 0.1))
    assert not at_chance(left, LNC, "conv-f2d4")


def test_pairs_of_latent_metrics_occur_once(table):
    found = intercorrelate(table)
    pairs = {frozenset(pair) for pair in zip(found["target"], found["metric"], strict=True)}
    assert len(pairs) == len(found)
    row = found[(found["target"] == "spatial.srss") & (found["metric"] == "semantics.lnc5")].iloc[0]
    rows = cells(table, LNC, "spatial.srss", "", None).rows
    assert row["pearson"] == pytest.approx(np.corrcoef(rows["x"], rows["y"])[0, 1])


def test_the_table_has_the_declared_columns_and_is_small(found):
    assert list(found.columns) == list(TABLES["correlations"].columns)
    assert len(found.to_csv(index=False, float_format="%.6g")) < 400 * len(found)


def test_a_retrained_tokenizer_counts_as_much_as_one_with_several_models():
    """The score table, the answer and the figures show one mean."""
    rows = pd.DataFrame(
        {
            "tokenizer": ["b", "a", "a", "a"],
            "tokenizer_seed": [0, 0, 0, 1],
            "seed": [0, 0, 1, 0],
            "guidance": 1.0,
            "value": [2.0, 4.2, 4.4, 3.5],
            "stderr": 0.25,
        }
    )
    found = means_by_tokenizer(rows)
    assert list(found.index) == ["b", "a"]
    assert found["value"].tolist() == pytest.approx([2.0, (4.3 + 3.5) / 2])
    assert found["stderr"].tolist() == pytest.approx([0.25, (4.3 - 3.5) / 2])
