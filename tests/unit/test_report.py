"""What the report and the headline say of the tables."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest

from diffusability.analysis.answer import (
    CANNOT,
    answer,
    largest_family,
    target_means,
    turned_correlations,
)
from diffusability.analysis.catalogue import HEADLINE_METRICS
from diffusability.analysis.frames import DIGITS, read_table, with_interval, write_table
from diffusability.analysis.headline import (
    COLUMNS,
    LINES,
    NO_CORRELATIONS,
    Headline,
    headline_correlations,
    headline_values,
    noise_sentences,
)
from diffusability.analysis.latent_spaces import latent_spaces
from diffusability.claims.verdicts import CONTRADICTED, NOT_TESTABLE, REPRODUCED
from diffusability.report.summaries import (
    latent_space_rows,
    ledger_rows,
    regression_rows,
    untested_claims,
    verdict_counts,
)
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from diffusability.study.study import AnalysisSpec
from tests.conftest import REPOSITORY
from tests.unit.latent_tables import SPACES, latent_measurements
from tests.unit.measurement_table import analysed, measurement_table

TARGET, FAMILY = "generation.fd_judge", "conv-f2d4"


@pytest.fixture(scope="module")
def tables():
    """Every table of a study with two guidance scales."""
    table = measurement_table(14, scales=(1.0, 1.5), backbones=("sit-b",))
    return analysed(table, AnalysisSpec())


def test_noise_in_words(tables):
    floor = tables["noise_floor"]
    row = floor[(floor["target"] == TARGET) & (floor["guidance"] == 1.0)].iloc[0]
    sentences = noise_sentences(floor, TARGET, FAMILY)
    assert len(sentences) == 3  # two scales, and each tokenizer's best
    first = sentences[0]
    assert first.startswith("Noise floor of fd_judge, sit-b, guidance 1: ")
    assert f"diffusion model moves it by {math.sqrt(row['variance_diffusion_seeds']):.3g}" in first
    assert f"tokenizers differ by {math.sqrt(row['variance_tokenizers']):.3g}" in first
    assert f"reliability {row['reliability']:.2f} [{row['low']:.2f}" in first
    assert "best guidance" in sentences[-1]
    drowned = floor.assign(variance_tokenizers=-1.0, low=math.nan)
    assert "tokenizers differ no more than that" in noise_sentences(drowned, TARGET, FAMILY)[0]
    assert "no interval" in noise_sentences(drowned, TARGET, FAMILY)[0]
    unknown = floor.assign(reliability=math.nan, note="no repeated seeds")
    assert noise_sentences(unknown, TARGET, FAMILY)[0].endswith("unknown (no repeated seeds)")


def test_the_headline_is_of_the_largest_family_at_the_smallest_scale(tables):
    table = measurement_table(
        14, scales=(1.0, 1.5), backbones=("sit-b",), families=("conv-a", "conv-b", "conv-a")
    )
    assert largest_family(table) == "conv-a"
    mixed = analysed(table, AnalysisSpec(), "correlations")["correlations"]
    shown = headline_correlations(mixed, TARGET, "conv-a").set_index("metric")
    chosen = mixed[(mixed["family"] == "conv-a") & (mixed["guidance"] == 1.0)]
    chosen = chosen[(chosen["target"] == TARGET) & (chosen["metric"] == "velocity.viv")]
    (values,) = chosen.to_dict("records")
    assert shown.loc["VIV", "r"] == round(values["pearson"], 2)
    assert shown.loc["VIV", "Spearman's ρ"] == round(values["spearman"], 2)
    assert shown.loc["VIV", "r given PSNR"] == round(values["pearson_partial"], 2)
    assert shown.loc["VIV", "n"] == 9  # of 14, the first and the third of three
    alone = measurement_table(14, scales=(1.0, 1.5), backbones=("sit-b",))
    assert largest_family(alone) == FAMILY
    assert len(headline_correlations(tables["correlations"], TARGET, FAMILY)) == len(shown)


@pytest.mark.parametrize("kept", [["VIV", "SEC"], []])
def test_the_headline_of_a_study_without_perspectives(tables, monkeypatch, kept):
    measurements = measurement_table(14, scales=(1.0, 1.5), backbones=("sit-b",))
    gone = [metric for short, metric in HEADLINE_METRICS.items() if short not in kept]
    left = {
        name: table[~table["metric"].isin(gone)]
        for name, table in (tables | {"measurements": measurements}).items()
        if name in ("measurements", "correlations")
    }
    values = headline_values(left["measurements"], TARGET)
    named = [name for name in values if not name.startswith("fd_judge")]
    assert named == ["tokenizer", *kept]
    monkeypatch.setattr("diffusability.analysis.headline.read_tables", lambda _: tables | left)
    headline = Headline.of(Plan(load_study(REPOSITORY / "studies" / "smoke.yaml")))
    said = headline.text()
    assert (NO_CORRELATIONS in said) == (not kept)
    assert ("r interval" in said) == bool(kept)
    assert "Empty" not in said
    assert len(said.splitlines()) <= LINES
    assert max(map(len, said.splitlines())) <= COLUMNS
    assert json.loads(headline.json())["answer"] == headline.answer.sentence
    table = pd.read_csv(io.StringIO(headline.csv()))
    assert list(table) == list(values)
    assert len(table) == 14
    assert table[values.columns[1]].map(lambda cell: float(cell.split()[0])).is_monotonic_increasing


def told(tokenizers, **more):
    """Return the answer of a made-up study, and its tables."""
    measured = measurement_table(tokenizers, **more)
    names = ("correlations", "noise_floor", "tokenizers")
    every = {"measurements": measured, **analysed(measured, AnalysisSpec(), *names)}
    return answer(every, TARGET), every


def measured_up(table):
    """Return a table whose target is declared better when it is higher."""
    own = table["metric"] == TARGET
    return table.assign(higher_is_better=table["higher_is_better"].where(~own, True))


def test_the_answer_names_the_strongest_perspective_with_its_uncertainty():
    found, every = told(30, backbones=("sit-b",))
    rows = every["correlations"]
    (row,) = rows[(rows["metric"] == "velocity.viv") & (rows["target"] == TARGET)].to_dict(
        "records"
    )
    assert found.decided
    assert found.strongest.row["metric"] == "velocity.viv"
    ends = f"[{row['pearson_low']:.2f}, {row['pearson_high']:.2f}]"
    assert f"r = {row['pearson']:.2f}, 95 % interval {ends}" in found.sentence
    settled = "velocity ambiguity is the strongest of 2 whose correlation with image quality is"
    assert f"{settled} settled: the lower the VIV of a tokenizer, the better" in found.sentence
    # where the target is better higher, the same positive r reads the other way
    flipped = {**every, "measurements": measured_up(every["measurements"])}
    assert "the higher the VIV of a tokenizer, the better" in answer(flipped, TARGET).sentence
    assert "30 tokenizers in 6 clusters" in found.sentence
    measured = every["measurements"]
    means = measured[measured["metric"] == TARGET].groupby("tokenizer")["value"].mean()
    assert (found.best, found.worst) == (means.idxmin(), means.idxmax())
    # higher is better: turned, it is positive too
    srss = next(c for c in turned_correlations(rows, TARGET, FAMILY) if c.short == "SRSS")
    raw = rows[(rows["metric"] == "spatial.srss") & (rows["target"] == TARGET)].iloc[0]
    assert raw["pearson"] < 0
    assert srss.r == -raw["pearson"]
    assert (srss.low, srss.high) == (-raw["pearson_high"], -raw["pearson_low"])


@pytest.mark.parametrize(
    ("study", "reason"),
    [
        ({"tokenizers": 2}, "it has 2 tokenizers of one family, and a correlation needs 3"),
        ({"tokenizers": 3}, "3 clusters, fewer than 4"),
        (
            {"tokenizers": 12, "noise": 3.0},
            "correlation with the Fréchet distance (judge) of generated images can be told from",
        ),
    ],
)
def test_the_answer_says_why_a_study_cannot_tell(study, reason):
    found, _ = told(**study)
    assert found.sentence.startswith(CANNOT)
    assert not found.decided
    assert reason in found.sentence


def test_the_best_tokenizer_and_its_gap_are_of_the_backbone_of_the_correlation():
    def turned_round(frame):
        own = (frame["metric"] == TARGET) & (frame["backbone"] == "other")
        noisy = (frame["metric"] == TARGET) & (frame["backbone"] == "sit-b")
        rng = np.random.default_rng(0)
        frame.loc[noisy, "value"] = rng.uniform(50, 150, noisy.sum())
        frame.loc[own, "value"] = 300 - frame.loc[own, "value"]
        return frame

    table = measurement_table(24, backbones=("sit-b", "other"), edit=turned_round)
    every = {"measurements": table, **analysed(table, AnalysisSpec())}
    found = answer(every, TARGET)
    assert found.strongest.row["backbone"] == "other"
    means = target_means(table, TARGET, FAMILY, "other")
    assert (found.best, found.worst) == (means.index[0], means.index[-1])
    assert f"Best images of other: {means.index[0]}" in found.details[-1]
    near = (means.iloc[1:] - means.iloc[0]).abs()
    floor = every["noise_floor"]
    row = floor[(floor["target"] == TARGET) & (floor["backbone"] == "other")].iloc[0]
    close = (near <= row["resolvable_gap"]).sum()
    assert f"; {close} of the 23 others differ from it by less" in found.details[-1]
    assert f"models of one tokenizer: {row['reliability']:.2f} [" in found.details[-2]


def test_no_answer_rests_on_failed_models_chance_or_one_tokenizer():
    _found, every = told(30, backbones=("sit-b",))
    dead = every["measurements"].assign(failed=True)
    assert "diffusion models failed" in answer(every | {"measurements": dead}, TARGET).sentence
    rows = every["correlations"]
    chance = answer(every | {"correlations": rows.assign(at_chance=True)}, TARGET)
    assert chance.sentence == f"{CANNOT}no metric leaves chance."
    alone = rows.assign(without_low=-0.1, without_high=0.9, influential="t03")
    one = answer(every | {"correlations": alone}, TARGET)
    assert "changes its sign without the tokenizer t03" in one.sentence
    assert not one.decided
    group = {"without_cluster_low": -0.1, "without_cluster_high": 0.9, "influential_cluster": "k"}
    carried = answer(every | {"correlations": rows.assign(**group)}, TARGET)
    assert "changes its sign without the cluster k" in carried.sentence
    assert not carried.decided
    many = answer(every | {"correlations": rows.assign(pearson_p_holm=0.2)}, TARGET)
    assert "may be chance among the many tested" in many.sentence
    assert not many.decided
    bare = every["measurements"][every["measurements"]["backbone"] == ""]
    assert "no generated images" in answer(every | {"measurements": bare}, TARGET).sentence


def test_show_names_the_backbones_on_which_a_tokenizer_failed(monkeypatch):
    _found, every = told(8, backbones=("sit-b", "other"))
    table = every["measurements"]
    own = table["backbone"] == "other"
    every["measurements"] = table.assign(failed=(own & (table["tokenizer"] == "t01")).where(own))
    monkeypatch.setattr("diffusability.analysis.headline.read_tables", lambda _: every)
    headline = Headline.of(Plan(load_study(REPOSITORY / "studies" / "smoke.yaml")))
    notes = headline.scores.set_index("tokenizer")["note"]
    assert notes[notes != ""].to_dict() == {"t01": "failed on other"}


def test_ledger_counts_and_puts_decided_claims_first():
    base = {"section": "s", "statement": "t", "expected": "at least 0", "refuted_by": "r"}
    base |= {"reason": "because", "low": math.nan, "high": math.nan, "value": math.nan}
    base |= {"network": "sit-b", "exact": "it is so", "power": 0.5}
    ledger = pd.DataFrame(
        [
            {**base, "id": "c", "verdict": NOT_TESTABLE},
            {**base, "id": "b", "verdict": CONTRADICTED, "value": -0.5, "low": -0.7, "high": -0.1},
            {**base, "id": "a", "verdict": REPRODUCED, "value": 0.5, "low": 0.1, "high": 0.7},
        ]
    )
    assert list(verdict_counts(ledger).values()) == [1, 1, 0, 1]
    rows = ledger_rows(ledger)
    assert [row["id"] for row in rows] == ["a", "b"]
    assert [row["measured"] for row in rows] == ["0.50 [0.10, 0.70]", "-0.50 [-0.70, -0.10]"]
    assert untested_claims(ledger) == {"because": ["c by sit-b"]}
    assert with_interval(0.5, math.nan, math.nan) == "0.50, no interval"
    assert (rows[0]["network"], rows[0]["exact"]) == ("sit-b", "it is so")


def test_encoders_stand_in_a_row_each_with_every_backbone_beside_them():
    spaces = latent_spaces(latent_measurements(error=0.1, seeds=(0.0,), encoders=1))
    shown = latent_space_rows(spaces).set_index("tokenizer")
    assert list(shown.index) == list(SPACES)
    gpe = shown.loc["gpe"]
    assert (gpe["a"], gpe["b"], gpe["b / a"]) == ("0.8", "1.2", "1.5")
    assert gpe["99 % / 1 %"] == "1.2 ± 0.1"
    assert gpe["reconstruction MSE"] == "0.01 ± 0.001"
    assert (gpe["fd_judge dit-xs guidance 1"], gpe["fd_judge unet-xs guidance 1"]) == (
        "3 ± 0.1",
        "2 ± 0.1",
    )
    assert set(shown.loc["pca", "a":]) == {""}


def test_a_study_that_stretches_nothing_shows_no_encoders():
    spaces = latent_spaces(latent_measurements())
    assert latent_space_rows(spaces.assign(stretch_q99_q01=math.nan)).empty


def test_fits_are_shown_of_each_family_apart(tables):
    fits = regression_rows(tables["regressions"], TARGET, best=3)
    assert list(fits["guidance"]) == ["1"] * 3 + ["1.5"] * 3 + ["best"] * 3
    every = tables["regressions"]
    every = every[
        (every["target"] == TARGET) & (every["guidance"] == 1.0) & (every["family"] == "conv-f2d4")
    ]
    q2 = fits["Q² on left-out clusters"].iloc[0]
    assert q2.startswith(f"{every['q2'].max():.2f} (range ")
    two = measurement_table(16, backbones=("sit-b",), families=("a", "b"))
    apart = regression_rows(
        analysed(two, AnalysisSpec(), "regressions")["regressions"], TARGET, best=3
    )
    assert list(apart["family"]) == ["a"] * 3 + ["b"] * 3


def test_tables_survive_their_files(tables, tmp_path):
    for name, table in tables.items():
        path = tmp_path / f"{name}.csv"
        write_table(path, table)
        read = read_table(path)
        assert list(read.columns) == list(table.columns)
        texts = [c for c in table if table[c].map(lambda v: isinstance(v, str)).any()]
        for column in texts:
            written = table[column].astype(object).where(table[column].notna(), "")
            assert read[column].tolist() == written.tolist(), (name, column)
        for column in set(table) - set(texts):
            pd.testing.assert_series_equal(
                read[column].astype(float),
                table[column].astype(float),
                check_dtype=False,
                rtol=10.0 ** (1 - DIGITS),
            )
