"""The interval over clusters: closed forms, a slow re-statement, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics import CROSSED, LAYOUTS, coverage, crossed_coverage
from diffusability.analysis.estimators import average, deviation, pearson, spearman, within
from diffusability.analysis.intervals import (
    CORRELATION,
    LOGARITHM,
    PLAIN,
    cluster_interval,
    exact_share,
    units,
)
from diffusability.claims.joint import Row, Terms, evaluate


def test_of_a_mean_over_single_tokenizers_is_students():
    values = np.random.default_rng(0).normal(3, 2, 9)
    found = cluster_interval(average, (values,), np.arange(9), scale=PLAIN)
    known = stats.ttest_1samp(values, 0)
    assert (found.low[0], found.high[0]) == pytest.approx(known.confidence_interval(0.95))
    assert found.p[0] == pytest.approx(known.pvalue)


def test_of_a_correlation_restated_slowly():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 14))
    clusters = np.array(list("aaabbbccddeeff"))
    z = np.arctanh(np.corrcoef(x, y)[0, 1])
    rest = []
    for name in "abcdef":
        kept = clusters != name
        rest.append(np.arctanh(np.corrcoef(x[kept], y[kept])[0, 1]))
    error = np.sqrt(5 / 6 * np.sum((np.array(rest) - z) ** 2))
    reach = stats.t.ppf(0.975, 5) * error
    found = cluster_interval(pearson, (x, y), clusters)
    assert found.low[0] == pytest.approx(np.tanh(z - reach))
    assert found.high[0] == pytest.approx(np.tanh(z + reach))
    assert found.p[0] == pytest.approx(2 * stats.t.sf(abs(z) / error, 5))


def test_statistics_of_ranks_and_within_clusters_restated():
    x, y = np.random.default_rng(2).normal(size=(2, 10)).round(1)
    codes = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
    for g in range(4):
        a, b, kept = x[codes != g], y[codes != g], codes[codes != g]
        assert spearman(a, b)[0] == pytest.approx(stats.spearmanr(a, b).statistic)
        centred = [v - np.array([v[kept == c].mean() for c in kept]) for v in (a, b)]
        r = np.corrcoef(*centred)[0, 1]
        assert within(a, b, kept)[0] == pytest.approx(r)


@pytest.mark.parametrize(("n", "clusters"), [(12, 3), (3, 3)])
def test_too_few_clusters_have_no_interval_and_a_reason(n, clusters):
    x, y = np.random.default_rng(0).normal(size=(2, n))
    found = cluster_interval(pearson, (x, y), np.arange(n) % clusters)
    assert np.isfinite(found.value[0])
    assert np.isnan([found.low[0], found.high[0], found.p[0]]).all()
    assert f"{n} tokenizers in {clusters} clusters" in found.note


def test_encoders_that_cross_the_clusters_restated_slowly():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 10))
    labels = np.array(CROSSED["10 in 8, 2 encoders"], dtype=object)
    z = np.arctanh(np.corrcoef(x, y)[0, 1])

    def variance(names):
        groups = sorted(set(names))
        rest = []
        for group in groups:
            kept = [k for k, name in enumerate(names) if name != group]
            rest.append(np.arctanh(np.corrcoef(x[kept], y[kept])[0, 1]))
        count = len(groups)
        return (count - 1) / count * sum((t - z) ** 2 for t in rest), count

    methods = [method for method, _ in labels]
    encoders = [encoder or f"-{k}" for k, (_, encoder) in enumerate(labels)]
    pairs = [f"{m}/{e}" for m, e in zip(methods, encoders, strict=True)]
    (one, a), (other, b), (both, _) = map(variance, (methods, encoders, pairs))
    reach = stats.t.ppf(0.975, min(a, b) - 1) * np.sqrt(max(one, other, one + other - both))
    found = cluster_interval(pearson, (x, y), labels)
    assert found.low[0] == pytest.approx(np.tanh(z - reach))
    assert found.high[0] == pytest.approx(np.tanh(z + reach))
    # the joint statistic of a claim has the same interval
    row = Row({"metric": "m", "target": "t"}, np.arange(10), x[:, None], y[:, None])
    joint = evaluate("correlation", Terms([[row]]), labels)
    assert (joint.low[0], joint.high[0]) == pytest.approx((found.low[0], found.high[0]))


@pytest.mark.parametrize("encoders", [["", "", "", ""], ["e", "e", "", "f"]])
def test_encoders_within_one_cluster_change_nothing(encoders):
    labels = np.array(list(zip("aabc", encoders, strict=True)), dtype=object)
    assert [list(way) for way in units(labels)] == [list("aabc")]


def test_too_few_groups_of_one_encoder_have_no_interval():
    labels = np.array([(f"m{k}", "e" if k < 5 else "f") for k in range(10)], dtype=object)
    found = cluster_interval(pearson, np.random.default_rng(0).normal(size=(2, 10)), labels)
    assert "10 tokenizers in 2 groups of one encoder, fewer than 4" in found.note
    assert np.isnan(found.low[0])


def test_an_exact_relation_keeps_its_interval():
    x = np.arange(8.0)
    found = cluster_interval(pearson, (x, 2 * x), np.arange(8), scale=CORRELATION)
    assert (found.low[0], found.high[0]) == pytest.approx((1, 1), abs=1e-6)


def test_a_share_counts_clusters():
    found = exact_share(np.array([0.75, 0.0, 1.0]), 8, 0.95)
    for value, low, high in zip((6, 0, 8), found.low, found.high, strict=True):
        exact = stats.binomtest(value, 8).proportion_ci(method="exact")
        assert (low, high) == pytest.approx((exact.low, exact.high))


def test_a_spread_is_positive_and_has_an_interval():
    values = np.random.default_rng(0).normal(28, 0.5, 12)
    found = cluster_interval(deviation, (values,), np.arange(12) // 2, scale=LOGARITHM)
    assert found.value[0] == pytest.approx(values.std(ddof=1))
    assert 0 < found.low[0] < found.value[0] < found.high[0]


@pytest.mark.parametrize("layout", ["12 in 8", "43 in 8 (the paper)"])
def test_coverage_of_clustered_tokenizers(layout):
    assert coverage(LAYOUTS[layout], 0.8, 0.7, 600) > 0.92


def test_coverage_where_encoders_cross_the_methods():
    held, methods_alone = crossed_coverage(CROSSED["43 in 9, 7 encoders"], (0.0, 0.8), 0.7, 400)
    assert methods_alone < 0.8 < 0.92 < held


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(CROSSED))
@pytest.mark.parametrize("likeness", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.0, 0.8), (0.4, 0.4)])
@pytest.mark.parametrize("r", [0.0, 0.7])
def test_coverage_everywhere_that_encoders_cross(layout, likeness, r):
    assert 0.93 < crossed_coverage(CROSSED[layout], likeness, r, 2000)[0] < 0.995


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("resemblance", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("r", [0.0, 0.7, 0.87])
def test_coverage_everywhere(layout, resemblance, r):
    assert 0.92 < coverage(LAYOUTS[layout], resemblance, r, 2000) < 0.985
