"""The claims ledger: the shipped claims, the four verdicts, and the tables behind them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from diffusability.analysis.catalogue import HEADLINE
from diffusability.analysis.claims import load_claims
from diffusability.analysis.intervals import AnalysisOptions
from diffusability.analysis.noise_floor import comparability
from diffusability.analysis.panels import matching, predictors
from diffusability.analysis.sampling import guidance_optima
from diffusability.analysis.verdicts import (
    CONTRADICTED,
    NOT_TESTABLE,
    REPRODUCED,
    UNDECIDED,
    check_claims,
)
from diffusability.errors import StudyError
from diffusability.study.workflow_files import CLAIMS
from tests.unit.measurement_table import analysed, measurement_table, profiles_of

QUICK = AnalysisOptions(resamples=199)
TEXT = """
- id: strong
  section: Fig. 4
  statement: it is strong
  table: correlations
  statistic: pearson
  selector: {metric: velocity.viv, target: ["generation.*", "!*_infinity_*"], family: ["!all"]}
  expect: {at_least: 0.5}
  refuted_by: it is weak
"""


def claims_of(tmp_path, text=TEXT, **changes):
    """Return the claims of a text, with lines replaced."""
    for key, value in changes.items():
        lines = [line for line in text.splitlines() if not line.strip().startswith(f"{key}:")]
        text = "\n".join([*lines, f"  {key}: {value}" if value else ""])
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    return load_claims(path)


def correlations(*rows):
    """Return a table of correlations: value, low, high and changes of each row."""
    base = {
        "target": "generation.fd_judge",
        **{"backbone": "sit-b", "guidance": 1.0, "family": "conv-f2d4", "metric": "velocity.viv"},
        **{"pearson_cluster_low": np.nan, "pearson_cluster_high": np.nan, "n": 20},
        **{"clusters": 6, "expected_sign": 1.0, "note": ""},
    }
    names = ("pearson", "pearson_low", "pearson_high")
    return pd.DataFrame([base | dict(zip(names, r, strict=False)) | dict(*r[3:]) for r in rows])


def verdict(claims, *rows, **tables):
    """Return the verdict row of the first claim."""
    return check_claims(claims, {"correlations": correlations(*rows), **tables}).iloc[0]


def test_verdicts_follow_the_interval_not_the_point(tmp_path):
    claims = claims_of(tmp_path)
    assert verdict(claims, (0.9, 0.6, 0.97))["verdict"] == REPRODUCED
    assert verdict(claims, (0.9, 0.4, 0.97))["verdict"] == UNDECIDED
    assert verdict(claims, (0.2, 0.0, 0.45))["verdict"] == CONTRADICTED
    none = verdict(claims, (0.99, np.nan, np.nan, {"note": "3 tokenizers"}))
    assert none["verdict"] == NOT_TESTABLE
    assert "no interval" in none["reason"]
    assert "3 tokenizers" in none["reason"]
    wide = {"pearson_cluster_low": 0.3, "pearson_cluster_high": 0.98}
    row = verdict(claims, (0.9, 0.6, 0.97, wide))
    assert (row["verdict"], row["low"], row["high"]) == (UNDECIDED, 0.3, 0.98)


def test_correlations_are_turned_by_their_direction(tmp_path):
    claims = claims_of(tmp_path)
    row = verdict(claims, (-0.9, -0.97, -0.6, {"expected_sign": -1.0}))
    assert row["verdict"] == REPRODUCED
    assert (row["value"], row["low"], row["high"]) == (0.9, 0.6, 0.97)
    assert verdict(claims, (-0.9, -0.97, -0.6))["verdict"] == CONTRADICTED
    assert verdict(claims, (0.9, 0.8, 0.95, {"expected_sign": np.nan}))["verdict"] == NOT_TESTABLE


@pytest.mark.parametrize(
    ("expect", "interval", "expected"),
    [
        ("{equals: 0.87, margin: 0.1}", (0.80, 0.95), REPRODUCED),
        ("{equals: 0.87, margin: 0.1}", (0.60, 0.95), UNDECIDED),
        ("{equals: 0.87, margin: 0.1}", (0.20, 0.70), CONTRADICTED),
        ("{at_most: 0.3}", (-0.5, 0.2), REPRODUCED),
        ("{between: [-0.3, 0.3]}", (-0.4, 0.2), UNDECIDED),
        ("{between: [-0.3, 0.3]}", (0.31, 0.5), CONTRADICTED),
    ],
)
def test_regions(tmp_path, expect, interval, expected):
    claims = claims_of(tmp_path, expect=expect)
    assert verdict(claims, (np.mean(interval), *interval))["verdict"] == expected


def test_all_rows_or_any(tmp_path):
    good, bad, open_ = (0.9, 0.6, 1.0), (0.1, 0.0, 0.2), (0.5, 0.3, 0.7)
    every, one = claims_of(tmp_path), claims_of(tmp_path, rows="any")
    assert verdict(every, good, good)["verdict"] == REPRODUCED
    assert verdict(every, good, open_)["verdict"] == UNDECIDED
    row = verdict(every, good, open_, bad)
    assert row["verdict"] == CONTRADICTED
    assert row["value"] == 0.1
    assert "1 contradicted, 1 undecided, 1 reproduced" in row["reason"]
    assert verdict(one, good, open_, bad)["verdict"] == REPRODUCED


def test_small_studies_cannot_test(tmp_path):
    small = claims_of(tmp_path, smallest="{tokenizers: 12, clusters: 4, backbones: 2}")
    good = (0.9, 0.6, 1.0)
    row = verdict(small, good)
    assert (row["verdict"], row["reason"]) == (NOT_TESTABLE, "1 backbones, the claim needs 2")
    other = (*good, {"backbone": "sit-xl"})
    assert verdict(small, good, other)["verdict"] == REPRODUCED
    few = (*good, {"backbone": "sit-xl", "n": 8})
    row = verdict(small, good, few)
    assert row["verdict"] == REPRODUCED
    assert "1 not testable" in row["reason"]
    assert "8 tokenizers" in verdict(small, few, (*good, {"n": 8}))["reason"]
    empty = check_claims(small, {})
    assert empty.iloc[0]["verdict"] == NOT_TESTABLE
    assert "no table of correlations" in empty.iloc[0]["reason"]
    foreign = verdict(small, (*good, {"metric": "spatial.lds"}), (*good, {"family": "all"}))
    assert "measures none of" in foreign["reason"]
    infinity = verdict(small, (*good, {"target": "generation.fd_infinity_judge"}))
    assert "measures none of" in infinity["reason"]


def test_noise_cannot_contradict_strength_nor_show_weakness(tmp_path):
    strong = claims_of(tmp_path, smallest="{reliability: 0.8}")
    weak = claims_of(tmp_path, smallest="{reliability: 0.8}", expect="{between: [-0.3, 0.3]}")
    floor = correlations((0, 0, 0))[["target", "backbone", "guidance", "family"]]
    noisy, clean = floor.assign(reliability=0.5), floor.assign(reliability=0.9)
    low, high, turned = (0.1, 0.0, 0.2), (0.9, 0.6, 1.0), (-0.5, -0.7, -0.2)
    assert verdict(strong, low, noise_floor=clean)["verdict"] == CONTRADICTED
    row = verdict(strong, low, noise_floor=noisy)
    assert row["verdict"] == UNDECIDED
    assert "reliability 0.50 is below 0.8" in row["reason"]
    assert "noise of seeds is unknown" in verdict(strong, low)["reason"]
    assert verdict(strong, high, noise_floor=noisy)["verdict"] == REPRODUCED
    assert verdict(strong, turned, noise_floor=noisy)["verdict"] == CONTRADICTED
    assert verdict(weak, low, noise_floor=clean)["verdict"] == REPRODUCED
    assert verdict(weak, low, noise_floor=noisy)["verdict"] == UNDECIDED
    assert verdict(weak, high, noise_floor=noisy)["verdict"] == CONTRADICTED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statement": None}, "strong.*statement is missing"),
        ({"colour": "red"}, "colour is not a key of a claim"),
        ({"table": "horoscopes"}, "table horoscopes is not one of correlations"),
        ({"expect": "{about: 3}"}, "expect must be at_least"),
        ({"expect": "{between: [1, 0]}"}, "expect must be at_least"),
        ({"smallest": "{moons: 3}"}, "smallest.moons is not one of"),
        ({"rows": "some"}, "rows must be all or any"),
    ],
)
def test_malformed_claims_are_refused(tmp_path, changes, message):
    with pytest.raises(StudyError, match=message):
        claims_of(tmp_path, **changes)


def test_malformed_files_are_refused(tmp_path):
    with pytest.raises(StudyError, match="duplicate claim id strong"):
        claims_of(tmp_path, TEXT + TEXT)
    with pytest.raises(StudyError, match="list of claims"):
        claims_of(tmp_path, "a: 1")
    with pytest.raises(StudyError, match="cannot be read"):
        load_claims(tmp_path / "nowhere.yaml")
    with pytest.raises(StudyError, match="no column colour"):
        verdict(claims_of(tmp_path, selector="{colour: red}"), (0.9, 0.6, 1.0))


@pytest.fixture(scope="module")
def tables():
    """Every analysis table of a study with two guidance scales."""
    table = measurement_table(14, scales=(1.0, 1.5))
    table = table[~table["metric"].isin(["velocity.tau", "spatial.rmsc"])]
    return analysed(table, QUICK)


def test_shipped_claims_fit_the_tables(tables):
    """Every claim names columns and statistics that exist, and none is reproduced by chance."""
    claims = load_claims(CLAIMS)
    ledger = check_claims(claims, tables)
    assert list(ledger["id"]) == [claim.id for claim in claims]
    assert set(ledger["verdict"]) <= {REPRODUCED, CONTRADICTED, UNDECIDED, NOT_TESTABLE}
    decided = ledger[ledger["verdict"] == REPRODUCED]
    assert decided[["low", "high"]].notna().all(axis=None)
    by_id = ledger.set_index("id")
    assert by_id.loc["viv-strong", "verdict"] == REPRODUCED
    assert by_id.loc["viv-value", "verdict"] == NOT_TESTABLE
    assert by_id.loc["three-stand-out", "verdict"] == NOT_TESTABLE
    assert (ledger["reason"] != "").all()


def test_shipped_statistics_exist(tables):
    for claim in load_claims(CLAIMS):
        table = tables[claim.table]
        there = set(table.get("statistic", [])) | set(table.columns)
        assert claim.statistic in there, claim.id
        for selector in claim.selectors:
            assert set(selector) <= set(table.columns), claim.id


def test_claims_of_a_frechet_distance_speak_of_fid_alike():
    """In Inception's features the target is `generation.fid`: the paper's own study."""
    ours = measurement_table(12, backbones=("sit-b",))
    theirs = ours.assign(metric=ours["metric"].replace("generation.fd_judge", "generation.fid"))
    ledgers = [
        check_claims(load_claims(CLAIMS), analysed(table, QUICK, profiles_of(ours)))
        for table in (ours, theirs)
    ]
    tested = [set(ledger.loc[ledger["value"].notna(), "id"]) for ledger in ledgers]
    assert tested[0]
    assert tested[0] == tested[1]


def test_a_tiny_study_tests_nothing_and_breaks_nothing():
    table = measurement_table(2, seeds=1, backbones=("sit-b",))
    ledger = check_claims(load_claims(CLAIMS), analysed(table, QUICK))
    assert (ledger["verdict"] == NOT_TESTABLE).all()


def test_headline_metrics_that_a_study_has():
    table = measurement_table(2)
    assert matching(predictors(table), HEADLINE) == list(HEADLINE[:4])
    assert matching(predictors(table), ("continuity.ifd_*", "velocity.t*")) == ["velocity.tau"]


def test_comparability_by_hand():
    table = measurement_table(6, retrained=0)
    psnr = table.loc[table["metric"] == "reconstruction.psnr", "value"]
    row = comparability(table).iloc[0]
    assert row["value"] == pytest.approx(psnr.std())
    assert row["low"] == pytest.approx(psnr.std() * np.sqrt(5 / stats.chi2.ppf(0.975, 5)))
    assert row["high"] == pytest.approx(psnr.std() * np.sqrt(5 / stats.chi2.ppf(0.025, 5)))
    assert "no interval" in comparability(measurement_table(3)).iloc[0]["note"]


def test_guidance_by_hand():
    """The made tables put the optimum at 1.5 + q/10: better (smaller q) wants less."""
    scales = tuple(np.round(np.arange(1.0, 2.05, 0.1), 1))
    table = measurement_table(10, scales=scales, backbones=("sit-b",), noise=0.0, retrained=0)
    found = guidance_optima(table, QUICK, inside=(1.4, 1.6))
    share, trend = found[found["family"] == "conv-f2d4"].to_dict("records")
    base = table[(table["metric"] == "generation.fd_judge") & (table["seed"] == 0)]
    best = base.loc[base.groupby("tokenizer")["value"].idxmin()].set_index("tokenizer")["guidance"]
    hits = int(best.between(1.4, 1.6).sum())
    assert 0 < hits < 10
    assert share["value"] == hits / 10
    assert share["low"] == pytest.approx(stats.beta.ppf(0.025, hits, 11 - hits))
    first = base[base["guidance"] == 1.0].set_index("tokenizer")["value"]
    assert trend["value"] == pytest.approx(np.corrcoef(best[first.index], first)[0, 1])
    # the same target turned round, higher is better: the same optima, the same trend
    turned = table["metric"] == "generation.fd_judge"
    mirror = table.assign(
        value=table["value"].where(~turned, -table["value"]),
        higher_is_better=table["higher_is_better"].where(~turned, True),
    )
    again = guidance_optima(mirror, QUICK, inside=(1.4, 1.6))
    assert again["value"].tolist() == pytest.approx(found["value"].tolist())
    single = guidance_optima(measurement_table(6, backbones=("sit-b",)), QUICK)
    assert single["note"].str.contains("1 guidance scale was sampled").all()
