"""Variance components, reliability, and what they take off a correlation."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from diffusability.analysis.noise_floor import (
    noise_floor,
    reliability,
    resolvable_gap,
    seeds_needed,
    variance_components,
)
from tests.unit.measurement_table import measurement_table


def runs_of(tokenizers, trained, diffusion, sd=(1.0, 0.5, 0.3), seed=0):
    """Return balanced runs with known standard deviations of the three levels."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(tokenizers):
        a = sd[0] * rng.normal()
        for t in range(trained):
            b = sd[1] * rng.normal()
            rows += [(f"t{i}", t, s, a + b + sd[2] * rng.normal()) for s in range(diffusion)]
    return pd.DataFrame(rows, columns=["tokenizer", "tokenizer_seed", "seed", "y"]).assign(x=0.0)


def test_components_by_hand():
    y = [1.0, 3.0, 5.0, 7.0, 4.0, 4.0]
    runs = pd.DataFrame({"tokenizer": list("aabbcc"), "tokenizer_seed": 0, "seed": [0, 1] * 3})
    found = variance_components(runs.assign(y=y))
    # within: (2 + 2 + 0)/3; means 2, 6, 4 with variance 4
    assert found.diffusion_seeds == pytest.approx(4 / 3)
    assert found.spread == pytest.approx(4.0)
    assert found.noise == pytest.approx(2 / 3)
    assert found.tokenizers == pytest.approx(10 / 3)
    assert math.isnan(found.tokenizer_seeds)
    value, low, high = reliability(found, 3)
    assert value == pytest.approx(1 - 1 / 6)
    # ICC(k) of a balanced one-way design: F = 6 with 2 and 3 degrees of freedom
    assert low == max(0.0, 1 - stats.f.ppf(0.975, 2, 3) / 6)
    assert high == pytest.approx(1 - stats.f.ppf(0.025, 2, 3) / 6)
    assert found.df == 3
    # Spearman-Brown backwards: a single run has variance share (10/3)/(10/3 + 4/3)


def test_one_way_components_are_those_of_a_mixed_model():
    runs = runs_of(12, 1, 4)
    found = variance_components(runs)
    fit = smf.mixedlm("y ~ 1", runs, groups=runs["tokenizer"]).fit(reml=True)
    assert found.diffusion_seeds == pytest.approx(fit.scale, rel=1e-4)
    assert found.tokenizers == pytest.approx(float(fit.cov_re.iloc[0, 0]), rel=1e-3)


def test_nested_components_by_a_slow_loop():
    runs = runs_of(5, 3, 2, seed=4)
    squares, means = [], []
    for _, tokenizer in runs.groupby("tokenizer"):
        trained = [group["y"].to_numpy() for _, group in tokenizer.groupby("tokenizer_seed")]
        squares += [((y - y.mean()) ** 2).sum() for y in trained]
        means.append([y.mean() for y in trained])
    seed_variance = sum(squares) / 15
    trained_variance = np.var(means, axis=1, ddof=1).mean() - seed_variance / 2
    total = np.var(np.mean(means, axis=1), ddof=1)
    found = variance_components(runs)
    assert found.diffusion_seeds == pytest.approx(seed_variance)
    assert found.tokenizer_seeds == pytest.approx(trained_variance)
    assert found.noise == pytest.approx(trained_variance / 3 + seed_variance / 6)
    assert found.tokenizers == pytest.approx(total - found.noise)
    # balanced: the noise is a third of the mean square of trainings, of 2 x 5 degrees of freedom
    assert found.df == pytest.approx(10)
    # a retrained tokenizer is another latent space: of its runs, only the diffusion seeds are noise
    assert (found.run_noise, found.run_df) == (pytest.approx(seed_variance / 6), 15)
    value, low, _ = reliability(found, 5)
    assert value == pytest.approx(1 - seed_variance / 6 / total)
    assert low == pytest.approx(1 - stats.f.ppf(0.975, 4, 15) * seed_variance / 6 / total)


def test_the_seeds_that_a_reliability_takes():
    """Spearman and Brown: k runs of reliability p each have k p / (1 + (k - 1) p)."""
    found = variance_components(runs_of(200, 1, 4, sd=(1.0, 0.0, 1.0)))
    one = 1 - found.diffusion_seeds / (found.tokenizers + found.diffusion_seeds)
    k = seeds_needed(found)
    assert k * one / (1 + (k - 1) * one) >= 0.8 > (k - 1) * one / (1 + (k - 2) * one)
    assert math.isnan(seeds_needed(variance_components(runs_of(8, 1, 1))))
    same = runs_of(8, 1, 3, sd=(0.0, 0.0, 1.0), seed=3)
    assert math.isnan(seeds_needed(variance_components(same)))


def test_components_are_unbiased_when_only_some_are_repeated():
    found = []
    for seed in range(150):
        runs = runs_of(20, 3, 3, seed=seed)
        keep = (runs["tokenizer_seed"] == 0) | (
            runs["tokenizer"].isin(["t0", "t1", "t2"]) & (runs["seed"] == 0)
        )
        part = variance_components(runs[keep])
        found.append((part.tokenizers, part.diffusion_seeds))
    # the floor at 0 of the middle component moves the others a little
    np.testing.assert_allclose(np.mean(found, axis=0), [1.0, 0.09], rtol=0.1)


@pytest.mark.release
@pytest.mark.parametrize("seeds", [2, 3])
def test_reliability_intervals_cover(seeds):
    truth, hits = 1 / (1 + 0.25 / seeds), 0
    for seed in range(300):
        runs = runs_of(8, 1, seeds, sd=(1.0, 0.0, 0.5), seed=seed)
        _, low, high = reliability(variance_components(runs), 8)
        hits += low <= truth <= high
    assert 0.91 <= hits / 300 <= 0.99


def test_no_repeats_are_said():
    floor = noise_floor(measurement_table(6, seeds=1, retrained=0))
    assert floor["reliability"].isna().all()
    assert floor["note"].str.contains("no repeated seeds").all()
    assert (floor["repeated"] == 0).all()


@pytest.mark.release
@pytest.mark.parametrize("retrained", [1, 2])
def test_equal_tokenizers_seldom_differ_by_the_resolvable_gap(retrained):
    """However few trainings the noise is known from, about 5 % of pairs differ by more."""
    beyond = []
    for seed in range(600):
        runs = runs_of(10, 2, 2, sd=(0.0, 0.5, 0.3), seed=seed)
        first = runs["tokenizer_seed"] == 0
        kept = runs[first | runs["tokenizer"].isin([f"t{k}" for k in range(retrained)])]
        means = [runs[first & (runs["tokenizer"] == t)]["y"].mean() for t in ("t8", "t9")]
        beyond.append(abs(means[0] - means[1]) > resolvable_gap(variance_components(kept)))
    assert np.mean(beyond) < 0.08


def test_table_rows():
    floor = noise_floor(measurement_table(24, noise=0.2))
    assert list(floor["family"]) == ["conv-f2d4"] * 2
    row = floor.iloc[0]
    assert (row["tokenizers"], row["runs"], row["retrained"]) == (24, 24 * 3 + 6, 3)
    assert row["run_sd"] == pytest.approx(20 * math.sqrt(0.2**2 + 0.1**2), rel=0.35)
    assert 0.8 < row["low"] < row["reliability"] < row["high"] < 1
    unbuilt = noise_floor(measurement_table(8, retrained=0)).iloc[0]
    assert "no tokenizer was retrained" in unbuilt["note"]
    few = noise_floor(measurement_table(3)).iloc[0]
    assert "3 tokenizers, fewer than 4: no interval" in few["note"]
    assert math.isnan(few["low"])


def test_constant_and_noise_free_targets_are_said():
    def constant(frame):
        return frame.assign(value=frame["value"].where(frame["metric"] != "generation.fd_judge", 7))

    floor = noise_floor(measurement_table(8, edit=constant))
    assert floor["note"].str.contains("the target is constant").all()
    assert floor["reliability"].isna().all()
