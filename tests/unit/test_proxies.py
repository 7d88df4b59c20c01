"""The proxies of the two papers against each other: numbers by hand, known winners, words."""

import math

import numpy as np
import pandas as pd
import pytest
from diffusability.analysis.comparison import (
    UNDECIDED,
    better_proxy,
    compare_pairs,
    compare_proxies,
    difference_interval,
)

from diffusability.analysis.catalogue import (
    FISHER_PROXIES,
    HEADLINE_FISHER,
    HEADLINE_METRICS,
    LATENT_PROXIES,
)
from diffusability.analysis.correlation import correlate
from diffusability.analysis.frames import read_table, write_table
from diffusability.analysis.headline import proxy_sentences
from diffusability.analysis.intervals import AnalysisOptions
from diffusability.analysis.measurements import check_measurements
from diffusability.analysis.panels import cells
from diffusability.report.summaries import proxy_rows
from diffusability.study.tables import TABLES
from tests.unit.measurement_table import analysed, measurement_table

TARGET = "generation.fd_judge"
VIV, FIR = HEADLINE_METRICS["VIV"], HEADLINE_FISHER
QUICK = AnalysisOptions(resamples=199)


def with_fisher(table: pd.DataFrame, *, more: tuple[str, ...] = (), **fir: object) -> pd.DataFrame:
    """Return a table in which FIR, and more, hold the numbers of VIV, unless given by tokenizer."""
    viv = table[table["metric"] == VIV]
    frames = [table]
    for name in (FIR, *more):
        own = viv.assign(metric=name)
        if name == "fisher.fi":
            own["higher_is_better"] = pd.NA
        own["value"] = [fir.get(t, x) for t, x in zip(own["tokenizer"], own["value"], strict=True)]
        frames.append(own)
    return check_measurements(pd.concat(frames, ignore_index=True))


def compared(
    table: pd.DataFrame, first: tuple[str, ...] = (VIV,), second: tuple[str, ...] = (FIR,)
):
    return compare_proxies(table, correlate(table, QUICK), QUICK, (first, second))


@pytest.fixture(scope="module")
def noisy() -> pd.DataFrame:
    """A table of two guidance scales in which FIR is noise and VIV is not."""
    rng = np.random.default_rng(1)
    made = measurement_table(16, scales=(1.0, 1.5), retrained=0, backbones=("sit-b",))
    names = made["tokenizer"].unique()
    fir = dict(zip(names, rng.normal(size=len(names)), strict=True))
    return with_fisher(made, more=("fisher.fi",), **fir)


def test_numbers_by_hand(noisy: pd.DataFrame) -> None:
    found = compared(noisy, (VIV, "spatial.srss"), (FIR, "fisher.fi"))
    assert list(found.columns) == list(TABLES["proxies"].columns)
    assert len(found) == 4 * 3  # pairs, two scales and the best
    at = (
        (found["metric_a"] == "spatial.srss")
        & (found["metric_b"] == FIR)
        & (found["guidance"] == 1.5)
    )
    row = found[at & (found["family"] == "conv-f2d4")].iloc[0]
    srss, fir = (cells(noisy, m, TARGET, "sit-b", 1.5).rows for m in ("spatial.srss", FIR))
    # a higher SRSS and a lower FIR promise a lower distance
    assert row["r_a"] == pytest.approx(-np.corrcoef(srss["x"], srss["y"])[0, 1])
    assert row["r_b"] == pytest.approx(np.corrcoef(fir["x"], fir["y"])[0, 1])
    assert row["value"] == pytest.approx(row["r_a"] - row["r_b"])
    assert row["low_a"] < row["r_a"] < row["high_a"]
    pearson = correlate(noisy, QUICK).set_index(["metric", "guidance", "family"])
    single = pearson.loc[("spatial.srss", 1.5, "conv-f2d4")]
    assert (row["low_a"], row["high_a"]) == (-single["pearson_high"], -single["pearson_low"])
    pair = compare_pairs(noisy, [("spatial.srss", FIR)], QUICK)
    same = pair[(pair["guidance"] == 1.5) & (pair["family"] == "conv-f2d4")].iloc[0]
    for column in ("value", "low", "high", "cluster_low", "cluster_high"):
        assert row[column] == pytest.approx(same[column], abs=1e-12)
    turned = found[found["metric_b"] == "fisher.fi"]
    assert turned["note"].str.contains("oriented by the data").all()
    assert (turned["r_b"] >= 0).all()


def test_a_surely_better_proxy_is_named(noisy: pd.DataFrame) -> None:
    found = compared(noisy)
    assert (found["better"] == VIV).all()
    first, *others = proxy_sentences(found, TARGET, "conv-f2d4")
    assert len(others) == 2  # the other scale, and each tokenizer's best
    assert first.startswith(
        "Which proxy predicts fd_judge, sit-b, guidance 1 better: velocity.viv, the"
    )
    row = found[(found["guidance"] == 1.0) & (found["family"] == "conv-f2d4")].iloc[0]
    assert f"fisher.fir r = {row['r_b']:.2f} [{row['low_b']:.2f}, {row['high_b']:.2f}]" in first
    assert "16 tokenizers" in first
    swapped = compared(noisy, (FIR,), (VIV,))
    assert (swapped["better"] == VIV).all()
    np.testing.assert_allclose(swapped["value"], -found["value"])


def test_equal_proxies_are_undecided() -> None:
    found = compared(with_fisher(measurement_table(16, retrained=0)), (VIV,), (FIR,))
    assert (found["value"] == 0).all()
    assert (found["better"] == UNDECIDED).all()
    assert all(
        "undecided, the interval" in text for text in proxy_sentences(found, TARGET, "conv-f2d4")
    )


def test_the_wider_interval_decides() -> None:
    row = {"metric_a": VIV, "metric_b": FIR, "low": 0.1, "high": 0.5}
    alone = row | {"cluster_low": math.nan, "cluster_high": math.nan}
    assert better_proxy(alone) == VIV
    assert better_proxy(row | {"cluster_low": -0.1, "cluster_high": 0.4}) == UNDECIDED
    assert difference_interval(row | {"cluster_low": -0.1, "cluster_high": 0.4}) == (-0.1, 0.5)
    touching = {"low": -0.5, "high": -0.1, "cluster_low": -0.6, "cluster_high": 0.0}
    assert better_proxy(row | touching) == UNDECIDED
    below = {"low": -0.5, "high": -0.1, "cluster_low": -0.6, "cluster_high": -0.2}
    assert better_proxy(row | below) == FIR
    assert better_proxy(alone | {"low": math.nan, "high": math.nan}) == ""


def test_where_fisher_was_not_measured_the_report_says_so(tmp_path) -> None:
    table = measurement_table(8, backbones=("sit-b",))
    tables = analysed(table, QUICK)
    write_table(tmp_path / "proxies.csv", tables["proxies"])
    for found in (tables["proxies"], read_table(tmp_path / "proxies.csv")):
        assert found.empty
        (sentence,) = proxy_sentences(found, TARGET, "conv-f2d4")
        assert "no Fisher quantity was measured" in sentence
        assert proxy_rows(found, TARGET, "conv-f2d4").empty


def test_every_pair_of_both_papers_is_in_the_analysis(noisy: pd.DataFrame, tmp_path) -> None:
    tables = analysed(noisy, QUICK)
    found = tables["proxies"]
    assert set(found["metric_a"]) == set(LATENT_PROXIES[:4])
    assert set(found["metric_b"]) == {FIR, "fisher.fi"}
    assert FIR in FISHER_PROXIES
    assert {"fisher.learned_fir_unconditional", "fisher.mmse_rate_deviation"} < set(FISHER_PROXIES)
    assert len(set(FISHER_PROXIES)) == 2 * 8 * 2
    shown = proxy_rows(found, TARGET, "conv-f2d4")
    assert set(shown["guidance"]) == {1.0}
    assert len(shown) == 8
    write_table(tmp_path / "proxies.csv", found)
    again = read_table(tmp_path / "proxies.csv")
    assert proxy_sentences(again, TARGET, "conv-f2d4") == proxy_sentences(
        found, TARGET, "conv-f2d4"
    )
    pd.testing.assert_frame_equal(proxy_rows(again, TARGET, "conv-f2d4"), shown)
    of_pairs = found[(found["target"] == TARGET) & (found["guidance"] == 1.0)]
    others = of_pairs[(of_pairs["family"] == "conv-f2d4")]
    others = others[(others["metric_a"] != VIV) | (others["metric_b"] != FIR)]
    wins = int((others["better"] == others["metric_a"]).sum())
    assert (
        f"of 7 other pairs, without correction for their number, the first paper's proxy is "
        f"better in {wins}," in proxy_sentences(found, TARGET, "conv-f2d4")[0]
    )


def test_missing_numbers_are_named(noisy: pd.DataFrame) -> None:
    lost = (noisy["metric"] == FIR) & (noisy["tokenizer"].isin(["t00", "t01"]))
    found = compared(noisy[~lost])
    assert (found["n"] == 14).all()
    assert found["note"].str.contains("2 tokenizers have only one of the two").all()
    assert found["note"].str.contains("interval of velocity.viv is over 16 tokenizers").all()
    few = compared(with_fisher(measurement_table(3, backbones=("sit-b",), retrained=0)))
    (sentence, *_) = proxy_sentences(few, TARGET, "conv-f2d4")
    assert "better: unknown (3 tokenizers, fewer than 4" in sentence
    without = compared(noisy, ("spatial.srss",), (FIR,))
    assert (
        "velocity.viv or fisher.fir was not measured"
        in proxy_sentences(without, TARGET, "conv-f2d4")[0]
    )
