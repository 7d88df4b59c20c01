"""Fits of generation quality, their skill on left-out clusters, ordering and metric choice."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from diffusability.analysis.significance import wild_cluster_p
from scipy import stats

from diffusability.analysis.intervals import AnalysisOptions, independent
from diffusability.analysis.panels import cells
from diffusability.analysis.regression import r2_estimator, regress
from diffusability.analysis.selection import (
    choose_metrics,
    leave_cluster_out,
    nested_predictions,
    order_pairs,
    q2_score,
    strongest,
    top1_regret,
)
from diffusability.study.tables import TABLES
from tests.unit.measurement_table import measurement_table

QUICK = AnalysisOptions(resamples=199)
PAIR = ["semantics.lnc5", "spatial.srss"]


def made(n=15, clusters=5, seed=0):
    """Return two predictors, a target and clusters."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    return X, X @ [1.0, -0.5] + rng.normal(size=n), np.arange(n) % clusters


@pytest.fixture(scope="module")
def table():
    """A study on one backbone."""
    return measurement_table(backbones=("sit-b",))


@pytest.fixture(scope="module")
def fits(table):
    """Its regressions, pooled family."""
    found = regress(table, QUICK, PAIR)
    return by_model(found)


def by_model(found):
    """Return regressions by the names of their predictors."""
    second = (" + " + found["metric_2"]).where(found["metric_2"] != "", "")
    return found.set_index(found["metric_1"] + second)


def test_rows_are_statsmodels(table, fits):
    assert list(TABLES["regressions"].columns) == list(fits.columns)
    rows = cells(table, PAIR[0], "generation.fd_judge", "sit-b", 1.0).rows
    rows = rows.assign(z=cells(table, PAIR[1], "generation.fd_judge", "sit-b", 1.0).rows["x"])
    scaled = rows[["x", "z", "y"]].apply(stats.zscore).assign(cluster=rows["cluster"])
    codes = {"groups": scaled["cluster"].astype("category").cat.codes}
    fit = smf.ols("y ~ x + z", scaled).fit(cov_type="cluster", cov_kwds=codes, use_t=True)
    row = fits.loc["semantics.lnc5 + spatial.srss"]
    assert row["r2"] == pytest.approx(fit.rsquared)
    assert row["r2_adj"] == pytest.approx(fit.rsquared_adj)
    for term, name in ((1, "x"), (2, "z")):
        assert row[f"beta_{term}"] == pytest.approx(fit.params[name])
        assert row[f"beta_{term}_low"] == pytest.approx(fit.conf_int().loc[name, 0])
        assert row[f"beta_{term}_high"] == pytest.approx(fit.conf_int().loc[name, 1])
    r = np.corrcoef(scaled["x"], scaled["z"])[0, 1]
    assert row["vif"] == pytest.approx(1 / (1 - r * r))
    assert math.isnan(fits.loc["velocity.viv", "vif"])
    assert row["r2_low"] < row["r2"] < row["r2_high"]
    assert "6 clusters: intervals of beta are too short" in row["note"]


def test_r2_under_weights_is_that_of_repeated_points():
    X, y, _ = made()
    weights = np.random.default_rng(1).multinomial(15, np.full(15, 1 / 15), 6).astype(float)
    for w, (value,) in zip(weights, r2_estimator(X, y).weighted(weights), strict=True):
        i = np.repeat(np.arange(15), w.astype(int))
        assert value == pytest.approx(sm.OLS(y[i], sm.add_constant(X[i])).fit().rsquared)


def test_q2_by_a_slow_loop():
    X, y, clusters = made()
    press = 0.0
    for i in range(15):
        train = clusters != clusters[i]
        fit = sm.OLS(y[train], sm.add_constant(X[train])).fit()
        press += (y[i] - (fit.params[0] + fit.params[1:] @ X[i])) ** 2
    q2 = q2_score(leave_cluster_out(X, y, clusters), y)
    assert q2 == pytest.approx(1 - press / ((y - y.mean()) ** 2).sum())
    exact = leave_cluster_out(X, X @ [2.0, 1.0] + 3, clusters)
    assert q2_score(exact, X @ [2.0, 1.0] + 3) == pytest.approx(1)
    assert math.isnan(q2_score(leave_cluster_out(X, y, np.zeros(15, int)), y))


def test_wild_bootstrap_by_enumeration():
    X, y, clusters = made(12, 4, seed=3)
    design = sm.add_constant(X)
    null = sm.OLS(y, design[:, [0, 2]]).fit()

    def t(target):
        groups = {"groups": clusters}
        return abs(sm.OLS(target, design).fit(cov_type="cluster", cov_kwds=groups).tvalues[1])

    signs = [np.array([1 if k >> c & 1 else -1 for c in range(4)]) for k in range(16)]
    values = [t(null.fittedvalues + s[clusters] * null.resid) for s in signs]
    expected = np.mean(np.array(values) >= t(y) * (1 - 1e-9))
    found = wild_cluster_p(design, y, clusters, 1, rng=np.random.default_rng(0))
    assert found == pytest.approx(expected)
    collinear = np.column_stack([design, design[:, 1]])
    assert math.isnan(wild_cluster_p(collinear, y, clusters, 1, rng=np.random.default_rng(0)))


def test_wild_bootstrap_keeps_its_level_where_robust_errors_do_not():
    clusters = np.repeat(np.arange(6), 4)
    wild = robust = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shared_x, shared_y = rng.normal(size=(2, 6))[:, clusters]
        x, y = shared_x + 0.3 * rng.normal(size=24), shared_y + 0.3 * rng.normal(size=24)
        design = sm.add_constant(x)
        fit = sm.OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": clusters})
        robust += fit.pvalues[1] < 0.05
        wild += wild_cluster_p(design, y, clusters, 1, rng=rng) < 0.05
    assert wild / 300 <= 0.09
    assert robust > 1.5 * wild


def test_ordering_by_a_slow_loop():
    rng = np.random.default_rng(2)
    score, y, errors = rng.normal(size=9), rng.normal(size=9), np.full(9, 0.2)
    score[3] = score[4]
    right = counted = 0.0
    for i, j in combinations(range(9), 2):
        if abs(y[i] - y[j]) > 2 * math.hypot(errors[i], errors[j]):
            counted += 1
            product = (score[i] - score[j]) * (y[i] - y[j])
            right += 1.0 if product > 0 else 0.5 if product == 0 else 0.0
    found = order_pairs(score, y, errors)
    assert found.pairs == counted < 36
    assert found.accuracy == pytest.approx(right / counted)
    ((low, high),) = found.intervals(independent(9, rng), resamples=299)
    assert low < found.accuracy < high
    exact = order_pairs(y, y, np.zeros(9))
    tau = stats.kendalltau(score[:3], y[:3]).statistic
    assert order_pairs(score[:3], y[:3], np.zeros(3)).accuracy == pytest.approx((tau + 1) / 2)
    ((low, high),) = exact.intervals(independent(9, rng), resamples=299)
    assert (exact.accuracy.item(), high) == (1.0, 1.0)
    assert 0.6 < low < 0.99  # nine in perfect order are not certain
    blurred = order_pairs(score, y, np.full(9, 10.0))
    assert math.isnan(blurred.accuracy.item())
    assert "differ by more than" in blurred.note
    assert "without standard error" in order_pairs(score, y, np.full(9, np.nan)).note


def test_regret():
    y = np.array([3.0, 1.0, 2.0])
    assert top1_regret(np.array([0.0, 1.0, 2.0]), y, better_high=True) == 1.0
    assert top1_regret(np.array([0.0, 1.0, 2.0]), y, better_high=False) == 2.0
    assert top1_regret(y, y, better_high=False) == 0.0
    assert top1_regret(np.array([5.0, 5.0, 2.0]), y, better_high=True) == pytest.approx(1.0)


def test_single_metrics_order_by_their_declared_direction(table, fits):
    rows = cells(table, "spatial.srss", "generation.fd_judge", "sit-b", 1.0).rows
    row = fits.loc["spatial.srss"]
    best = rows["x"].idxmax()
    assert row["regret"] == pytest.approx(rows["y"][best] - rows["y"].min())
    assert row["ordering"] > 0.6
    assert row["ordering_low"] <= row["ordering"] <= row["ordering_high"]
    assert np.isnan(fits.loc["spatial.rmsc", "ordering"])
    assert "has no direction" in fits.loc["spatial.rmsc", "note"]
    # two metrics order by what is predicted for clusters that are left out
    parts = [cells(table, name, "generation.fd_judge", "sit-b", 1.0).rows for name in PAIR]
    x = stats.zscore(np.column_stack([part["x"] for part in parts]))
    y, error = rows["y"].to_numpy(), rows["y_stderr"].to_numpy()
    codes = pd.factorize(rows["cluster"])[0]
    predicted = leave_cluster_out(x, stats.zscore(y), codes)
    both = fits.loc["semantics.lnc5 + spatial.srss"]
    assert both["ordering"] == pytest.approx(order_pairs(predicted, y, error).accuracy.item())


def test_impossible_fits_keep_their_rows():
    def spoil(frame):
        twin = frame[frame["metric"] == "semantics.lnc5"].assign(metric="semantics.twin")
        flat = frame["metric"] == "smoothness.sec25"
        frame = frame.assign(value=frame["value"].where(~flat, 1.0))
        return type(frame)(np.vstack([frame, twin]), columns=frame.columns)

    table = measurement_table(8, backbones=("sit-b",), edit=spoil)
    found = regress(table, QUICK, ["semantics.lnc5", "semantics.twin"])
    found = by_model(found)
    assert "constant" in found.loc["smoothness.sec25", "note"]
    assert "collinear" in found.loc["semantics.lnc5 + semantics.twin", "note"]
    few = regress(measurement_table(3, backbones=("sit-b",)), QUICK, PAIR)
    assert few["note"].str.contains("3 tokenizers are too few").all()


def test_choosing_inside_the_folds_by_a_slow_loop():
    rng = np.random.default_rng(5)
    X, y, clusters = rng.normal(size=(16, 6)), rng.normal(size=16), np.arange(16) % 4
    predicted, chosen = nested_predictions(X, y, clusters)
    for fold in range(4):
        out = clusters == fold
        strength = [abs(np.corrcoef(c[~out], y[~out])[0, 1]) for c in X.T]
        best = int(np.argmax(strength))
        line = np.polyfit(X[~out, best], y[~out], 1)
        assert chosen[fold] == best
        np.testing.assert_allclose(predicted[out], np.polyval(line, X[out, best]))
    assert strongest(np.ones((4, 2)), np.arange(4.0)) is None


def test_the_naive_choice_flatters_noise():
    promised, kept = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X, y, clusters = rng.normal(size=(20, 8)), rng.normal(size=20), np.arange(20) % 5
        best = strongest(X, y)
        promised.append(np.corrcoef(X[:, best], y)[0, 1] ** 2)
        kept.append(q2_score(nested_predictions(X, y, clusters)[0], y))
    assert np.mean(promised) > 0.15
    assert np.mean(kept) < 0


def test_choice_table(table):
    found = choose_metrics(table)
    row = found[(found["perspective"] == "velocity") & (found["family"] == "conv-f2d4")].iloc[0]
    assert (row["naive_metric"], row["candidates"]) == ("velocity.viv", 2)
    assert row["optimism"] == pytest.approx(row["naive_r2"] - row["nested_q2"])
    assert row["agreement"] == 1.0
    assert row["chosen"] == "velocity.viv (6)"
    cut = table[~((table["metric"] == "velocity.viv") & (table["tokenizer"] == "t05"))]
    row = choose_metrics(cut).iloc[0]
    assert row["naive_metric"] == "velocity.tau"
    assert "not measured for all tokenizers: velocity.viv" in row["note"]
    few = choose_metrics(measurement_table(3, backbones=("sit-b",)))
    assert few["note"].str.contains("no choice").all()
