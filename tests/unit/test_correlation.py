"""The table of correlations, its tests, and the comparison of dependent correlations."""

import math
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from diffusability.analysis.comparison import (
    compare_backbones,
    compare_pairs,
    zou_interval,
)
from diffusability.analysis.significance import (
    pairing_p,
    partial_p,
    permute,
    permute_within,
    williams,
    within_p,
)
from scipy import stats
from statsmodels.stats.multitest import multipletests

from diffusability.analysis.correlation import correlate, intercorrelate
from diffusability.analysis.estimators import pearson
from diffusability.analysis.intervals import AnalysisOptions
from diffusability.analysis.measurements import check_measurements
from diffusability.analysis.panels import cells, predictors
from diffusability.study.tables import BEST, TABLES
from tests.unit.measurement_table import measurement_table

QUICK = AnalysisOptions(resamples=199)
SEC = "smoothness.sec25"
STATISTICS = [
    *("pearson", "spearman", "kendall", "pearson_within", "pearson_between"),
    *("pearson_partial", "pearson_disattenuated"),
]


def pick(table, metric="velocity.viv", family="conv-f2d4", backbone="sit-b", guidance=1.0):
    """Return the row of one metric."""
    rows = table[(table["metric"] == metric) & (table["family"] == family)]
    rows = rows[(rows["backbone"] == backbone) & (rows["guidance"] == guidance)]
    return rows.iloc[0]


@pytest.fixture(scope="module")
def table():
    """A study of 24 tokenizers."""
    return measurement_table()


@pytest.fixture(scope="module")
def correlations(table):
    """Its correlations."""
    return correlate(table, QUICK)


def test_every_combination_has_its_row(table, correlations):
    assert list(correlations.columns) == list(TABLES["correlations"].columns)
    sizes = correlations.groupby(["target", "backbone", "guidance", "family", "metric"]).size()
    assert (sizes == 1).all()
    assert len(sizes) == 2 * 8  # backbones, metrics
    assert correlations[[*STATISTICS, "pearson_low"]].notna().mean().min() > 0.8


def test_values_are_scipys(table, correlations):
    rows = cells(table, "velocity.viv", "generation.fd_judge", "sit-b", 1.0).rows
    x, y, row = rows["x"], rows["y"], pick(correlations)
    for name, theirs in (
        ("pearson", stats.pearsonr),
        ("spearman", stats.spearmanr),
        ("kendall", stats.kendalltau),
    ):
        assert row[name] == pytest.approx(theirs(x, y).statistic)
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    means = rows.groupby("cluster")[["x", "y"]].mean()
    between = np.corrcoef(means["x"], means["y"])[0, 1]
    assert row["pearson_between"] == pytest.approx(between)
    assert row["clusters"] == 6
    psnr = cells(table, "reconstruction.psnr", "generation.fd_judge", "sit-b", 1.0).rows["x"]
    r = np.corrcoef([x, y, psnr])
    by_hand = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert row["pearson_partial"] == pytest.approx(by_hand)
    assert row["pearson_partial_p"] == pytest.approx(partial_p(by_hand, 24, 1))
    assert row["expected_sign"] == 1
    assert pick(correlations, "spatial.srss")["expected_sign"] == -1
    assert math.isnan(pick(correlations, "spatial.rmsc")["expected_sign"])


def test_corrections_run_over_the_metrics_of_a_panel(correlations):
    rows = correlations[correlations["backbone"] == "sit-b"]
    p = rows["pearson_p"]
    np.testing.assert_allclose(rows["pearson_p_holm"], multipletests(p, method="holm")[1])
    np.testing.assert_allclose(rows["pearson_p_by"], multipletests(p, method="fdr_by")[1])
    assert (rows["pearson_p_holm"] >= p).all()


def test_same_table_same_numbers_whatever_else_is_measured(table, correlations):
    keep = ["velocity.viv", "reconstruction.psnr", "generation.fd_judge"]
    fewer = table[table["metric"].isin(keep) & table["backbone"].isin(["", "sit-b"])]
    pd.testing.assert_frame_equal(correlate(fewer, QUICK), correlate(fewer, QUICK))
    corrected = ["pearson_p_holm", "pearson_p_by"]
    again = pick(correlate(fewer, QUICK)).drop(corrected)
    pd.testing.assert_series_equal(again, pick(correlations).drop(corrected), check_names=False)
    other = pick(correlate(fewer, AnalysisOptions(resamples=199, seed=1)))
    assert other["pearson_low"] != again["pearson_low"]


def test_simpson_is_seen():
    """Inside every cluster the metric helps; across clusters it looks harmful."""
    places = {c: i for i, c in enumerate(["baseline", "mcos+mdms", "eq", "lcr", "lmr", "repa"])}

    def simpson(frame):
        step = frame["cluster"].map(places)
        own = frame["tokenizer"].str[1:].astype(int) // 6  # place inside the cluster
        x = np.where(frame["metric"] == "velocity.viv", 10.0 * step + own, frame["value"])
        target = frame["metric"] == "generation.fd_judge"
        return frame.assign(value=np.where(target, 50 + 10.0 * step - 2 * own, x))

    rows = pick(correlate(measurement_table(backbones=("sit-b",), edit=simpson), QUICK))
    assert rows["pearson"] > 0.9
    assert rows["pearson_between"] > 0.99
    assert rows["pearson_within"] == pytest.approx(-1)
    assert rows["pearson_within_p"] == pytest.approx(1 / 200)


def test_permutation_p_values_by_enumeration():
    rng = np.random.default_rng(1)
    x, y = np.array([1.0, 2.0, 4.0, 8.0, 9.0]), np.array([2.0, 1.0, 5.0, 4.0, 7.0])
    r = [np.corrcoef(x, p)[0, 1] for p in permutations(y)]
    above = np.mean(np.array(r) >= np.corrcoef(x, y)[0, 1] - 1e-12)
    assert pairing_p(x, y, permute(5, rng)).item() == pytest.approx(2 * above)
    assert math.isnan(pairing_p(np.ones(5), y, permute(5, rng)).item())
    clusters = np.array([0, 0, 0, 1, 1])
    centred = [v - np.array([v[clusters == c].mean() for c in clusters]) for v in (x, y)]
    values = [
        abs(centred[0][list(p) + list(q)] @ centred[1])
        for p in permutations(range(3))
        for q in permutations([3, 4])
    ]
    exact = np.mean(np.array(values) >= abs(centred[0] @ centred[1]) - 1e-12)
    p, smallest = within_p(x, y, clusters, permute_within(clusters, rng, 20000))
    assert p.item() == pytest.approx(exact, abs=0.015)
    assert smallest == pytest.approx(1 / 12)
    flat = np.array([1.0, 1.0, 1.0, 5.0, 5.0])
    assert math.isnan(within_p(flat, y, clusters, permute_within(clusters, rng))[0].item())
    assert partial_p(0.5, 12, 2) == pytest.approx(
        2 * stats.t.sf(0.5 * math.sqrt(8 / 0.75), 8), abs=1e-15
    )


def test_within_permutation_keeps_its_level():
    """A trend between clusters alone is no trend inside them."""
    clusters, small = np.repeat(np.arange(4), 5), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, y = 5 * clusters + rng.normal(size=(2, 20))
        small += within_p(x, y, clusters, permute_within(clusters, rng, 199))[0].item() <= 0.05
    assert small / 200 <= 0.09


def test_degenerate_inputs_keep_their_rows():
    def spoil(frame):
        flat = frame["metric"] == "smoothness.sec25"
        lost = (frame["metric"] == "spatial.srss") & (frame["tokenizer"] != "t00")
        psnr = (frame["metric"] == "reconstruction.psnr") & (frame["tokenizer"] == "t03")
        return frame.assign(value=frame["value"].where(~flat, 1.0))[~lost & ~psnr]

    found = correlate(measurement_table(9, backbones=("sit-b",), edit=spoil), QUICK)
    flat, lost, whole = (
        pick(found, m) for m in ("smoothness.sec25", "spatial.srss", "velocity.viv")
    )
    assert flat[STATISTICS].isna().all()
    assert "the metric is constant: no correlation" in flat["note"]
    assert lost[STATISTICS].isna().all()
    assert "1 tokenizers have both values" in lost["note"]
    assert "8 of 9 tokenizers left out" in lost["note"]
    assert "1 tokenizers lack reconstruction.psnr" in whole["note"]
    few = pick(correlate(measurement_table(3, backbones=("sit-b",)), QUICK))
    assert few[["pearson_low", "pearson_high"]].isna().all()
    assert "fewer than 4: no interval" in few["note"]
    assert not math.isnan(few["pearson"])
    run = pick(found, "trajectory.straightness")
    assert "they share their noise" in run["note"]


def test_a_metric_that_no_tokenizer_has_is_no_row():
    def spoil(frame):
        return frame.assign(value=frame["value"].mask(frame["metric"] == "spatial.srss"))

    found = correlate(measurement_table(5, backbones=("sit-b",), edit=spoil), QUICK)
    assert "spatial.srss" not in set(found["metric"])


def test_families_and_best_guidance_are_panels():
    table = measurement_table(
        16, scales=(1.0, 2.0), families=("conv-f2d4", "vit-f2d4"), backbones=("sit-b",)
    )
    found = correlate(table[table["metric"].isin(["velocity.viv", "generation.fd_judge"])], QUICK)
    assert set(found["family"]) == {"all", "conv-f2d4", "vit-f2d4"}
    best = found[found["guidance"] == BEST]
    assert len(best) == len(found) // 3
    assert found["pearson_partial"].isna().all()
    assert found["note"].str.contains("too few to hold reconstruction.psnr fixed").all()


def test_targets_that_lead_are_related_to_every_metric_the_others_to_those_shown():
    made = measurement_table(6, backbones=("sit-b",))
    precision = made[made["metric"] == "generation.fd_judge"].assign(metric="generation.precision")
    table = check_measurements(pd.concat([made, precision]))
    found = correlate(table, QUICK)
    every = set(found.loc[found["target"] == "generation.fd_judge", "metric"])
    shown = set(found.loc[found["target"] == "generation.precision", "metric"])
    assert every == set(predictors(table))
    assert every - shown == {"velocity.tau", "spatial.rmsc"}


def test_intercorrelations_name_each_pair_once(table):
    found = intercorrelate(table, QUICK, ["velocity.viv", "semantics.lnc5", "spatial.srss"])
    pairs = found[["metric", "target"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [
        ["velocity.viv", "semantics.lnc5"],
        ["velocity.viv", "spatial.srss"],
        ["semantics.lnc5", "spatial.srss"],
    ]
    x = cells(table, "velocity.viv", "semantics.lnc5", "", None).rows
    row = found.iloc[0]
    assert row["pearson"] == pytest.approx(np.corrcoef(x["x"], x["y"])[0, 1])


def test_williams_by_hand():
    # n = 103, r12 = .396, r13 = .179, r23 = .088: t of the formula, worked out step by step
    r1, r2, r12, n = 0.396, 0.179, 0.088, 103
    determinant = np.linalg.det([[1, r1, r2], [r1, 1, r12], [r2, r12, 1]])
    below = 2 * (n - 1) / (n - 3) * determinant + ((r1 + r2) / 2) ** 2 * (1 - r12) ** 3
    t = (r1 - r2) * math.sqrt((n - 1) * (1 + r12) / below)
    assert williams(r1, r2, r12, n) == pytest.approx((t, 2 * stats.t.sf(t, n - 3)))
    assert williams(r2, r1, r12, n)[0] == pytest.approx(-t)
    assert all(math.isnan(v) for v in williams(1.0, 1.0, 1.0, 9))


def test_tests_of_equal_correlations_keep_their_level():
    rejected = np.zeros(2)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        y, a, b, common = rng.normal(size=(4, 15))
        x1, x2 = y + common + a, y + common + b
        r1, r2, r12 = (np.corrcoef(u, v)[0, 1] for u, v in ((x1, y), (x2, y), (x1, x2)))
        low, high = zou_interval(pearson(x1, y), pearson(x2, y), r12, 0.95)
        rejected += [
            williams(r1, r2, r12, 15)[1] < 0.05,
            not low <= 0 <= high,
        ]
    assert (rejected / 400 <= 0.085).all()
    assert (rejected / 400 >= 0.015).all()


def test_comparisons_are_oriented_and_paired(table):
    found = compare_pairs(
        table, list(combinations(["velocity.viv", "spatial.srss", SEC], 2)), QUICK
    )
    row = found[(found["metric_b"] == "spatial.srss") & (found["family"] == "conv-f2d4")].iloc[0]
    x = cells(table, "velocity.viv", "generation.fd_judge", "sit-b", 1.0).rows
    s = cells(table, "spatial.srss", "generation.fd_judge", "sit-b", 1.0).rows
    first, second = np.corrcoef(x["x"], x["y"])[0, 1], -np.corrcoef(s["x"], s["y"])[0, 1]
    assert row["value"] == pytest.approx(first - second)
    assert row["low"] < row["value"] < row["high"]
    r12 = np.corrcoef(x["x"], -s["x"])[0, 1]
    assert row["williams_p"] == pytest.approx(williams(first, second, r12, 24)[1])
    assert len(found) == 3 * 2
    backbones = compare_backbones(table, ["velocity.viv"], QUICK)
    both = backbones[backbones["family"] == "conv-f2d4"].set_index("backbone_a")["value"]
    assert both["sit-b"] == pytest.approx(-both["lightningdit-b"])
    assert (
        compare_pairs(measurement_table(2), [("velocity.viv", "spatial.srss")])["value"]
        .isna()
        .all()
    )
