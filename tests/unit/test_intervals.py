"""Statistics under resampling weights, and the coverage of their intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from diffusability.analysis.estimators import (
    difference,
    kendall,
    partial,
    pearson,
    spearman,
    within,
)
from diffusability.analysis.intervals import (
    bootstrap_interval,
    bootstrap_intervals,
    cluster_interval,
    cluster_intervals,
    cluster_weights,
    clustered,
    fisher_interval,
    independent,
    keyed_generator,
)

SCIPY = [
    (pearson, lambda x, y: stats.pearsonr(x, y).statistic),
    (spearman, lambda x, y: stats.spearmanr(x, y).statistic),
    (kendall, lambda x, y: stats.kendalltau(x, y).statistic),
]


def rng(seed=0):
    """Return a generator."""
    return np.random.default_rng(seed)


def sample(n, rho, generator, ties=False):
    """Return two normal variables with correlation rho."""
    x, e = generator.normal(size=(2, n))
    y = rho * x + math.sqrt(1 - rho**2) * e
    return (np.round(x), np.round(y)) if ties else (x, y)


@pytest.mark.parametrize(("ours", "scipys"), SCIPY)
@pytest.mark.parametrize("ties", [False, True])
def test_weights_are_repetitions(ours, scipys, ties):
    x, y = sample(9, 0.6, rng(3), ties)
    weights = rng(1).multinomial(9, np.full(9, 1 / 9), size=20).astype(float)
    slow = [scipys(np.repeat(x, w.astype(int)), np.repeat(y, w.astype(int))) for w in weights]
    np.testing.assert_allclose(ours(x, y).weighted(weights)[:, 0], slow, atol=1e-12)
    assert ours(x, y).value == pytest.approx(scipys(x, y), abs=1e-12)


def test_partial_and_within_are_residual_correlations():
    x, y = sample(12, 0.5, rng(0))
    given = rng(1).normal(size=(12, 2))
    design = np.column_stack([np.ones(12), given])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    assert partial(x, y, given).value == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-12)
    clusters = np.arange(12) % 3
    left = [v - np.array([v[clusters == c].mean() for c in clusters]) for v in (x, y)]
    assert within(x, y, clusters).value == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-12)
    weights = rng(2).multinomial(12, np.full(12, 1 / 12), size=5).astype(float)
    for w, (value,) in zip(weights, within(x, y, clusters).weighted(weights), strict=True):
        i = np.repeat(np.arange(12), w.astype(int))
        means = [[v[i][clusters[i] == c].mean() for c in clusters[i]] for v in (x, y)]
        assert value == pytest.approx(np.corrcoef(x[i] - means[0], y[i] - means[1])[0, 1])


def test_bca_is_scipys():
    x, y = sample(25, 0.5, rng(4))
    found = bootstrap_interval(pearson(x, y), rng=rng(7), resamples=999)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b, axis=-1: stats.pearsonr(a, b, axis=axis).statistic,
        paired=True,
        vectorized=True,
        n_resamples=999,
        rng=rng(7),
        method="BCa",
    ).confidence_interval
    assert found.method == "BCa"
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=1e-9)


def test_fisher_intervals_by_hand():
    x, y = sample(10, 0.5, rng(5))
    r = np.corrcoef(x, y)[0, 1]
    reach = stats.norm.ppf(0.975) / math.sqrt(7)
    by_hand = np.tanh([np.arctanh(r) - reach, np.arctanh(r) + reach])
    assert fisher_interval(pearson(x, y)) == pytest.approx(tuple(by_hand), abs=1e-12)
    rho = stats.spearmanr(x, y).statistic
    reach = stats.norm.ppf(0.95) * math.sqrt((1 + rho**2 / 2) / 7)
    assert fisher_interval(spearman(x, y), 0.9)[0] == pytest.approx(
        math.tanh(math.atanh(rho) - reach)
    )
    reach = stats.norm.ppf(0.975) * math.sqrt(0.437 / 2)
    low = fisher_interval(kendall(np.arange(6.0), np.arange(6.0) ** 3))[0]
    assert low == pytest.approx(math.tanh(math.atanh(1 - 2 / 30) - reach))
    # what is held fixed costs points: two covariates, three clusters
    given = rng(6).normal(size=(10, 2))
    assert partial(x, y, given).z_variance == pytest.approx(1 / 5)
    assert within(x, y, np.arange(10) % 3).z_variance == pytest.approx(1 / 5)
    # six in perfect order: half a step inside is 1 - 6/(6 * 35), where z starts
    inner = 1 - 6 / 210
    reach = stats.norm.ppf(0.975) * math.sqrt(1.5 / 3)
    low = fisher_interval(spearman(np.arange(6.0), np.arange(6.0) ** 3))[0]
    assert low == pytest.approx(math.tanh(math.atanh(inner) - reach))


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("ours", [pearson, spearman, kendall])
def test_few_tokenizers_have_finite_intervals(ours, n):
    x = np.arange(n) ** 2.0
    for y in (np.exp(x / 9), sample(n, 0.3, rng(n))[1], np.r_[1.0, np.zeros(n - 1)]):
        found = bootstrap_interval(ours(x, y), rng=rng(), resamples=499)
        assert -1 <= found.low <= ours(x, y).value <= found.high <= 1
        assert "Fisher z" in found.method
    # a perfect order of so few says little: four cannot even exclude the opposite sign
    order = bootstrap_interval(kendall(x, np.exp(x / 9)), rng=rng(), resamples=499)
    assert (order.low < 0) == (n == 4)
    assert order.high == 1


def test_no_interval_has_a_reason():
    x, y = sample(3, 0.5, rng())
    found = bootstrap_interval(pearson(x, y), rng=rng())
    assert found.low is None
    assert found.note == "3 tokenizers, fewer than 4: no interval"
    flat = bootstrap_interval(pearson(np.ones(9), np.arange(9.0)), rng=rng())
    assert flat.low is None
    assert "does not exist" in flat.note
    x, y = sample(9, 0.5, rng())
    few = cluster_interval(pearson(x, y), np.arange(9) % 3, rng=rng())
    assert few.low is None
    assert "3 clusters, fewer than 4" in few.note


def test_degenerate_resamples_are_drawn_again():
    """A draw of 4 of 4 has fewer than 3 different points with chance 88/256."""
    weights = independent(4, rng()).take(3, 0, 999)
    assert len(weights) == 999
    assert ((weights > 0).sum(axis=1) >= 3).all()
    x, y = sample(4, 0.5, rng(1))
    assert bootstrap_interval(pearson(x, y), rng=rng(), resamples=999).low is not None


def test_cluster_weights_keep_clusters_together():
    clusters = np.array([0, 0, 0, 1, 2, 2])
    weights = cluster_weights(clusters, 4000, rng())
    totals = np.stack([weights[:, clusters == c].sum(axis=1) for c in range(3)], axis=1)
    assert (totals % [3, 1, 2] == 0).all()  # every drawn cluster brings as many points as it has
    np.testing.assert_allclose((totals / [3, 1, 2]).sum(axis=1), 3)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    assert not (weights[:, 0] == weights[:, 1]).all()  # points are drawn too


def coverage(draw, interval, truth, repeats):
    """Return the share of intervals that hold the truth."""
    hits = 0
    for seed in range(repeats):
        generator = rng(seed)
        found = interval(draw(generator), generator)
        hits += found.low <= truth <= found.high
    return hits / repeats


@pytest.mark.parametrize(("n", "rho"), [(4, 0.5), (8, 0.0), (8, 0.8), (25, 0.5)])
def test_intervals_of_independent_tokenizers_cover(n, rho):
    def interval(xy, generator):
        return bootstrap_interval(pearson(*xy), rng=generator, resamples=299)

    share = coverage(lambda g: sample(n, rho, g), interval, rho, 300)
    assert 0.90 <= share <= 1.0  # nominal 0.95; three standard errors are 0.04


def test_heavy_tails_need_the_hull():
    def draw(generator):
        x, e = generator.standard_t(3, size=(2, 8))
        return x, 0.8 * x + 0.6 * e

    def interval(xy, generator):
        return bootstrap_interval(pearson(*xy), rng=generator, resamples=299)

    assert coverage(draw, interval, 0.8, 300) >= 0.90


def test_cluster_bootstrap_covers_where_the_plain_one_does_not():
    sizes = (1, 6, 5, 6, 6, 2, 4, 3)
    clusters = np.repeat(np.arange(8), sizes)
    rho, shared = 0.7, 0.8

    def draw(generator):
        common, own = generator.normal(size=(2, 8)), generator.normal(size=(2, len(clusters)))
        x, e = math.sqrt(shared) * common[:, clusters] + math.sqrt(1 - shared) * own
        return x, rho * x + math.sqrt(1 - rho**2) * e

    def plain(xy, generator):
        return bootstrap_interval(pearson(*xy), rng=generator, resamples=299)

    def clustered(xy, generator):
        return cluster_interval(pearson(*xy), clusters, rng=generator, resamples=299)

    assert coverage(draw, plain, rho, 200) < 0.85
    assert coverage(draw, clustered, rho, 200) >= 0.88


def test_differences_and_generators_are_deterministic():
    x, y = sample(12, 0.7, rng(1))
    gap = difference(pearson(x, y), spearman(x, y), (1, -1))
    assert gap.value == pytest.approx(pearson(x, y).value + spearman(x, y).value)
    first, second = (keyed_generator(3, "a", 1.0).normal(size=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert keyed_generator(3, "a", 1.5).normal() != first[0]
    assert keyed_generator(4, "a", 1.0).normal() != first[0]


@pytest.mark.parametrize("ours", [pearson, spearman, kendall])
def test_many_pairs_at_once_are_each_alone(ours):
    """With the same draws, a batch gives every pair the interval that it has by itself."""
    generator = rng(8)
    x, y = generator.normal(size=(6, 4)), np.array([1.0, 2.0, 2.0, 3.0, 5.0, 8.0])
    x[:, 2] = [0, 0, 0, 0, 1, 0]  # most resamples of it are constant
    clusters = np.array([0, 0, 1, 2, 3, 3])
    draws, by_cluster = independent(6, rng(1)), clustered(clusters, rng(2))
    together = bootstrap_intervals(ours(x, y), draws, resamples=199)
    together += cluster_intervals(ours(x, y), clusters, by_cluster, resamples=199)
    alone = [bootstrap_intervals(ours(c, y), draws, resamples=199)[0] for c in x.T]
    alone += [cluster_intervals(ours(c, y), clusters, by_cluster, resamples=199)[0] for c in x.T]
    for one, other in zip(together, alone, strict=True):
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)
        assert (one.method, one.note) == (other.method, other.note)


def test_draws_are_given_out_in_one_order():
    first, second = independent(5, rng(3)), independent(5, rng(3))
    whole = first.take(3, 0, 60)
    halves = [second.take(3, 0, 30), second.take(3, 30, 60)]
    assert ((whole > 0).sum(axis=1) >= 3).all()
    assert whole.sum(axis=1).tolist() == [5] * 60
    np.testing.assert_array_equal(whole[:30], halves[0])
    assert len(np.concatenate(halves)) == 60
