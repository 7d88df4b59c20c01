"""Fits of generation quality: adjusted R², Q² on left-out clusters, and what a pair gains."""

import numpy as np
import pytest
import statsmodels.api as sm

from diffusability.analysis.panels import cells
from diffusability.analysis.regression import q2_score, regress
from diffusability.study.planning.tables import TABLES
from tests.unit.measurement_table import measurement_table

TARGET, LNC, SRSS = "generation.fd_judge", "semantics.lnc5", "spatial.srss"


@pytest.fixture(scope="module")
def table():
    return measurement_table(24, backbones=("sit-b",))


@pytest.fixture(scope="module")
def fits(table):
    found = regress(table)
    assert list(found.columns) == list(TABLES["regressions"].columns)
    return found.set_index(["metric_1", "metric_2"])


def by_hand(x, y, clusters):
    """Return predictions of each cluster from a fit on the others."""
    predicted, design = np.empty(len(y)), sm.add_constant(x)
    for name in set(clusters):
        out = (clusters == name).to_numpy()
        predicted[out] = design[out] @ sm.OLS(y[~out], design[~out]).fit().params
    return predicted


def test_numbers_by_hand(table, fits):
    parts = [cells(table, name, TARGET, "sit-b", 1.0).rows for name in (LNC, SRSS)]
    x, y = np.column_stack([part["x"] for part in parts]), parts[0]["y"].to_numpy()
    clusters = parts[0]["cluster"]
    row = fits.loc[(LNC, SRSS)]
    assert row["r2_adj"] == pytest.approx(sm.OLS(y, sm.add_constant(x)).fit().rsquared_adj)
    predicted = by_hand(x, y, clusters)
    press = ((y - predicted) ** 2).sum()
    assert row["q2"] == pytest.approx(1 - press / ((y - y.mean()) ** 2).sum())
    without = [q2_score(predicted[clusters != c], y[clusters != c]) for c in set(clusters)]
    assert (row["q2_low"], row["q2_high"]) == pytest.approx((min(without), max(without)))
    alone = [fits.loc[(name, ""), "q2"] for name in (LNC, SRSS)]
    assert row["gain"] == pytest.approx(row["q2"] - max(alone))
    assert row["gain"] > 0.05  # each adds its own half of the hidden quality
    assert fits.loc[(LNC, ""), "q2"] < fits.loc[(LNC, ""), "r2_adj"]


def test_nothing_without_meaning_is_written(fits):
    assert (fits["q2"].dropna() >= -1).all()
    assert (fits["q2_low"].dropna() >= -1).all()


def test_families_are_fitted_apart():
    found = regress(measurement_table(16, backbones=("sit-b",), families=("a", "b")))
    assert set(found["family"]) == {"a", "b"}
    assert (found["n"] == 8).all()


def test_collinear_metrics_and_few_clusters_are_said():
    def twin(frame):
        lnc = frame[frame["metric"] == LNC].set_index(["tokenizer", "tokenizer_seed"])["value"]
        srss = frame["metric"] == SRSS
        keys = list(zip(frame["tokenizer"], frame["tokenizer_seed"], strict=True))
        twins = np.array([2 * lnc[key] for key in keys])
        return frame.assign(value=np.where(srss, twins, frame["value"]))

    found = regress(measurement_table(12, backbones=("sit-b",), edit=twin))
    row = found[(found["metric_1"] == LNC) & (found["metric_2"] == SRSS)].iloc[0]
    assert np.isnan(row["r2_adj"])
    assert "collinear" in row["note"]

    def one(frame):
        return frame.assign(cluster="baseline")

    few = regress(measurement_table(12, backbones=("sit-b",), edit=one))
    assert few["q2"].isna().all()
    assert few["note"].str.contains("1 clusters are too few to leave one out").all()


def test_the_gain_of_a_pair_is_over_its_own_tokenizers(table):
    """Where a metric is missing of some tokenizers, all three fits leave them out."""
    some = table["tokenizer"].isin(table["tokenizer"].unique()[:4]) & (table["metric"] == SRSS)
    lacking = regress(table[~some]).set_index(["metric_1", "metric_2"])
    known = regress(table[~table["tokenizer"].isin(table["tokenizer"].unique()[:4])])
    known = known.set_index(["metric_1", "metric_2"])
    assert lacking.loc[(LNC, SRSS), "gain"] == pytest.approx(known.loc[(LNC, SRSS), "gain"])
    assert lacking.loc[(LNC, ""), "n"] > lacking.loc[(LNC, SRSS), "n"]
