"""The claims: their file, one joint statistic each, the four verdicts, and the power."""

import json
import math
import zlib
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.statistics import CROSSED, LAYOUTS, STRONG, STRONGER, TRUTHS, verdict_shares
from diffusability.analysis.catalogue import HEADLINE
from diffusability.analysis.estimators import partial, r2_of_two
from diffusability.analysis.frames import table_frame
from diffusability.analysis.measurements import check_measurements
from diffusability.analysis.noise_floor import noise_floor
from diffusability.analysis.panels import Measured, cells, matching, predictors
from diffusability.analysis.sampling import guidance_optima
from diffusability.claims.claim import Region, Selector, fits, load_claims, named
from diffusability.claims.evidence import DEVIATION, EARLY, LATE, OPTIMUM, Evidence
from diffusability.claims.joint import Row, Terms, evaluate
from diffusability.claims.power import (
    ASSUMED,
    NOT_COMPUTED,
    power,
    power_table,
    power_text,
    simulate,
)
from diffusability.claims.seed_noise import noise_free, without_noise
from diffusability.claims.verdicts import (
    CONTRADICTED,
    NOT_TESTABLE,
    REPRODUCED,
    UNDECIDED,
    VERDICTS,
    check_claims,
    decide,
)
from diffusability.cli import main
from diffusability.errors import StudyError
from diffusability.study.core.workflow_files import CLAIMS, FISHER_CLAIMS, LATENT_CLAIMS
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import measurement_table, profiles_of

TARGET, LNC, SRSS = "generation.fd_judge", "semantics.lnc5", "spatial.srss"
TEXT = """
- id: strong
  section: Fig. 4
  statement: it is strong
  statistic: correlation
  of: {metric: velocity.viv, paper: 0.87}
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


def verdict(claims, table, floor=None):
    """Return the verdict row of the first claim."""
    floor = noise_floor(table) if floor is None else floor
    return check_claims(claims, table, profiles_of(table), floor, pd.DataFrame()).iloc[0]


@pytest.mark.parametrize(
    ("region", "ends", "expected"),
    [
        ((0.77, 0.97), (0.80, 0.95), REPRODUCED),
        ((0.77, 0.97), (0.60, 0.95), UNDECIDED),
        ((0.77, 0.97), (0.20, 0.70), CONTRADICTED),
        ((-math.inf, 0.3), (-0.5, 0.2), REPRODUCED),
        ((-0.3, 0.3), (-0.4, 0.2), UNDECIDED),
        ((-0.3, 0.3), (0.31, 0.5), CONTRADICTED),
    ],
)
def test_verdicts_follow_the_interval(region, ends, expected):
    assert decide(Region(*region, ""), ends)[0] == expected


def test_noise_cannot_contradict_strength_nor_show_weakness():
    strong, weak = Region(0.5, math.inf, ""), Region(-0.3, 0.3, "")
    low, high, turned = (0.1, 0.4), (0.6, 0.9), (-0.7, -0.2)

    def given(region, ends, reliability):
        return decide(region, ends, without_noise(ends, reliability))[0]

    assert given(strong, low, 0.9) == CONTRADICTED
    assert given(strong, low, 0.5) == UNDECIDED  # 0.4 / sqrt(0.5) is above 0.5
    assert given(strong, low, 0.0) == UNDECIDED
    assert given(strong, high, 0.0) == REPRODUCED
    assert given(strong, turned, 0.0) == CONTRADICTED
    assert given(weak, (0.0, 0.25), 0.9) == REPRODUCED
    assert given(weak, (0.0, 0.25), 0.5) == UNDECIDED
    assert given(weak, high, 0.5) == CONTRADICTED


def test_noise_that_differs_between_panels_widens_a_difference():
    """0.6 - 0.5 on two backbones: at reliability .64, either may have been weakened by 1/.8."""
    assert without_noise((0.05, 0.15), 0.64, [0.6], [0.5]) == pytest.approx((-0.075, 0.3))
    # no correlation exceeds one, however noisy
    assert without_noise((0.05, 0.15), 0.0, [0.6], [0.5]) == pytest.approx((-0.45, 0.55))


def rows_of(*correlations: float, paper: float = math.nan) -> Terms:
    """Return one term of rows over 20 tokenizers, a backbone each, with given correlations."""
    rng = np.random.default_rng(0)
    x = stats.zscore(rng.standard_normal(20))
    other = rng.standard_normal(20)
    other = stats.zscore(other - x * (x @ other) / 20)  # orthogonal to x and to a constant
    rows = []
    for k, r in enumerate(correlations):
        y = r * x + math.sqrt(1 - r**2) * other
        labels = {"target": TARGET, "backbone": f"b{k}", "guidance": 1.0, "family": "f"}
        rows.append(
            Row(labels | {"metric": LNC}, np.arange(20), x[:, None], y[:, None], paper=paper)
        )
    return Terms([rows])


def test_noise_weakens_the_correlation_of_an_offset_and_not_the_offset(tmp_path):
    (claim,) = claims_of(tmp_path, statistic="offset", expect="{between: [-0.2, 0.2]}")
    terms, ends, clusters = rows_of(0.45, paper=0.75), (-0.40, -0.25), [f"c{k}" for k in range(20)]
    assert noise_free(claim, terms, clusters, ends, 1.0) == pytest.approx(ends)
    free = noise_free(claim, terms, clusters, ends, 0.64)
    assert free == pytest.approx((-0.40, 0.5 / 0.8 - 0.75))
    assert decide(claim.region, ends, free)[0] == UNDECIDED
    # of an unknown reliability r may be 1, and no more
    assert noise_free(claim, terms, clusters, ends, 0.0) == pytest.approx((-0.40, 0.25))


def test_noise_weakens_r_squared_by_the_reliability(tmp_path):
    (claim,) = claims_of(tmp_path, statistic="fit", expect="{at_least: 0.5}")
    free = noise_free(claim, rows_of(0.5), [], (0.10, 0.38), 0.64)
    assert free == pytest.approx((0.10, 0.38 / 0.64))


def test_noise_changes_a_range_by_what_it_does_to_each_correlation(tmp_path):
    (claim,) = claims_of(tmp_path, statistic="range", expect="{at_most: 0.6}")
    terms = rows_of(0.6, 0.2)
    # without noise .6 to 1 and .2 to .4: their range is .2 to .8 in the place of .4
    assert noise_free(claim, terms, [], (0.3, 0.5), 0.25) == pytest.approx((0.1, 0.9))
    assert noise_free(claim, terms, [], (0.3, 0.5), 1.0) == pytest.approx((0.3, 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statement": None}, "0.statement\n *Field required"),
        ({"colour": "red"}, "0.colour\n *Extra inputs"),
        ({"statistic": "horoscope"}, "statistic horoscope is not one of correlation"),
        ({"expect": "{about: 3}"}, "0.expect\n.*must be at_least"),
        ({"expect": "{between: [1, 0]}"}, "0.expect\n.*must be at_least"),
        ({"of": "{metric: a, moons: 3}"}, "0.of.0.moons\n *Extra inputs"),
        ({"of": "{paper: 3}"}, "0.of.0.metric\n *Field required"),
        ({"table": "horoscopes"}, "0.table\n *Input should be '', 'latent_findings'"),
        ({"table": "latent_findings"}, "needs either `of`, or `table` and `selector`"),
    ],
)
def test_malformed_claims_are_refused(tmp_path, changes, message):
    with pytest.raises(StudyError, match=message):
        claims_of(tmp_path, **changes)


def test_malformed_files_are_refused(tmp_path):
    with pytest.raises(StudyError, match="duplicate claim id strong"):
        claims_of(tmp_path, TEXT + TEXT)
    with pytest.raises(StudyError, match=r"list of claims(.|\n)*valid list"):
        claims_of(tmp_path, "a: 1")
    with pytest.raises(StudyError, match="cannot be read"):
        load_claims(tmp_path / "nowhere.yaml")


def row_of(rng, index, metric="a", **labels):
    where = {"target": "t", "backbone": "b", "guidance": 1, "family": "f", "metric": metric}
    x, y = rng.normal(size=(2, len(index), 1))
    return Row(where | labels, np.asarray(index), x, y)


def test_a_joint_statistic_restated_slowly():
    """Two families of which the second lacks a tokenizer, against a third row of the first."""
    rng = np.random.default_rng(0)
    clusters = np.array(list("aabbccddeeaabbccddee"))
    rows = [row_of(rng, range(10)), row_of(rng, range(10, 19)), row_of(rng, range(10), "b")]
    found = evaluate("correlation", Terms([rows[:2]], [rows[2:]]), clusters)

    def value(kept):
        z = []
        for row in rows:
            own = kept[row.index]
            z.append(np.arctanh(np.corrcoef(row.x[own, 0], row.y[own, 0])[0, 1]))
        return np.tanh((z[0] + z[1]) / 2) - np.tanh(z[2])

    every = value(np.ones(20, bool))
    rest = np.array([value(clusters != name) for name in "abcde"])
    error = np.sqrt(4 / 5 * ((rest - every) ** 2).sum())
    assert found.value[0] == pytest.approx(every)
    assert found.high[0] - every == pytest.approx(stats.t.ppf(0.975, 4) * error)


def test_other_statistics_by_hand():
    rng = np.random.default_rng(1)
    clusters = np.arange(10) // 2
    rows = [row_of(rng, range(10), backbone=b) for b in ("p", "q")]
    r = [np.corrcoef(row.x[:, 0], row.y[:, 0])[0, 1] for row in rows]

    def of(kind, rows, **more):
        return float(evaluate(kind, Terms([rows]), clusters, **more).value[0])

    assert of("range", rows) == pytest.approx(abs(r[0] - r[1]))
    families = [replace(row, labels={**row.labels, "family": f}) for row in rows for f in "gh"]
    families[1] = replace(families[1], y=-families[1].y)  # r[0], -r[0] on p; twice r[1] on q
    assert of("range_over_families", families) == pytest.approx((2 * abs(r[0]) + 0) / 2)
    apart = np.mean([abs(r[0] - r[1]), abs(-r[0] - r[1])])
    assert of("range", families) == pytest.approx(apart)
    paper = [
        Row(row.labels, row.index, row.x, row.y, paper=p)
        for row, p in zip(rows, (0.9, 0.5), strict=True)
    ]
    assert of("offset", paper) == pytest.approx(np.mean(np.array(r) - (0.9, 0.5)))
    z, own = np.arctanh((0.9, 0.5)), np.arctanh(r)
    assert of("slope", paper) == pytest.approx((own[0] - own[1]) / (z[0] - z[1]))
    shared = np.mean([1 - (1 - v**2) * 9 / 8 for v in r])
    assert of("shared", rows) == pytest.approx(shared)
    assert of("sd", rows) == pytest.approx(np.mean([row.x.std(ddof=1) for row in rows]))
    assert of("mean", rows) == pytest.approx(np.mean([row.x.mean() for row in rows]))
    least = evaluate("correlation", Terms([[row] for row in rows]), clusters, least=True)
    assert least.value[0] == pytest.approx(min(r))
    alone = [evaluate("correlation", Terms([[row]]), clusters) for row in rows]
    assert least.low[0] == pytest.approx(min(one.low[0] for one in alone))
    assert least.high[0] > min(one.high[0] for one in alone)  # corrected for two terms


# r of Fig. 5 (conv-f16d32: SiT-B, SiT-XL, LightningDiT-B, -XL) and Fig. 6 (SiT-B: d32, d64, trans)
BACKBONES = {
    "velocity.viv": (0.870, 0.789, 0.895, 0.786),
    "semantics.lnc5": (0.794, 0.758, 0.781, 0.668),
    "spatial.srss": (0.800, 0.842, 0.706, 0.805),
    "smoothness.sec25": (0.695, 0.625, 0.764, 0.700),
    "continuity.ifid": (0.650, 0.597, 0.640, 0.542),
}
FAMILIES = {
    "velocity.viv": (0.870, 0.791, 0.789),
    "spatial.srss": (0.800, 0.871, 0.897),
    "continuity.ifid": (0.650, 0.871, 0.657),
}


@pytest.mark.parametrize(
    ("name", "values", "label"),
    [
        ("viv-and-srss-most-stable", BACKBONES, "backbone"),
        ("ifid-less-stable", FAMILIES, "family"),
    ],
)
def test_the_papers_own_values_agree_with_claims_on_ranges(name, values, label):
    (claim,) = (claim for claim in load_claims(CLAIMS) if claim.id == name)
    x = np.array([1.0, 1.0, -1.0, -1.0] * 2)
    apart = np.array([1.0, -1.0, 1.0, -1.0] * 2)  # uncorrelated with x, of equal variance

    def rows(selector):
        return [
            Row(
                {"target": "t", "backbone": "b", "guidance": 1, "family": "f"}
                | {"metric": metric, label: str(k)},
                np.arange(8),
                x[:, None],
                (r * x + math.sqrt(1 - r**2) * apart)[:, None],
            )
            for metric, given in values.items()
            if fits(metric, selector.metric)
            for k, r in enumerate(given)
        ]

    terms = Terms([rows(s) for s in claim.plus], [rows(s) for s in claim.minus])
    found = float(evaluate(claim.statistic, terms, np.arange(8) // 2).value[0])
    assert claim.region.low < found < claim.region.high


def test_the_papers_own_values_agree_with_its_other_claims():
    compared = 0
    for claim in load_claims(CLAIMS):
        if claim.statistic in ("slope", "offset", "share") or claim.assumed:
            continue
        sides = [
            [term.paper_value(metric) for term in side for metric in named(term.metric)]
            for side in (claim.plus, claim.minus)
        ]
        if not any(map(math.isnan, sides[0] + sides[1])):
            value = min(sides[0]) if claim.least else np.mean(sides[0]) * len(claim.plus)
            value -= np.mean(sides[1]) * len(claim.minus) if sides[1] else 0.0
            assert claim.region.low <= value <= claim.region.high, claim.id
            compared += 1
    assert compared == 24  # all others of the file


@pytest.fixture(scope="module")
def table():
    return measurement_table(24, scales=(1.0, 1.5), families=("conv-a", "vit-b"))


def test_rows_are_oriented_and_families_apart(table, tmp_path):
    (claim,) = claims_of(tmp_path, of="{metric: [velocity.viv, semantics.lnc5]}")
    evidence = Evidence(Measured(table), profiles_of(table))
    terms, _ = evidence.terms(claim.statistic, claim.plus, claim.minus)
    assert len(terms.rows) == 2 * 2 * 2  # metrics, backbones, families
    assert {row.labels["guidance"] for row in terms.rows} == {1.0}
    for row in terms.rows:
        assert np.corrcoef(row.x[:, 0], row.y[:, 0])[0, 1] > 0
        assert len(row.x) == 12


def test_a_claim_is_reproduced_contradicted_or_undecided(table, tmp_path):
    yes = verdict(claims_of(tmp_path), table)
    assert (yes["verdict"], yes["rows"], yes["n"], yes["clusters"]) == (REPRODUCED, 4, 24, 6)
    assert 0.5 < yes["low"] < yes["value"] < yes["high"]
    assert 0.3 < yes["power"] < 0.6
    assert verdict(claims_of(tmp_path, expect="{at_most: 0.2}"), table)["verdict"] == CONTRADICTED
    near = f"{{at_least: {yes['value']:.3f}}}"
    assert verdict(claims_of(tmp_path, expect=near), table)["verdict"] == UNDECIDED


def test_what_cannot_be_tested_says_why(table, tmp_path):
    claims = claims_of(tmp_path)
    none = verdict(claims_of(tmp_path, of="{metric: velocity.warp}"), table)
    assert (none["verdict"], none["reason"]) == (NOT_TESTABLE, "velocity.warp was not measured")
    fit = verdict(claims_of(tmp_path, statistic="fit", of="{metric: velocity.warp}"), table)
    assert (fit["verdict"], fit["reason"]) == (NOT_TESTABLE, "velocity.warp was not measured")
    foreign = verdict(claims_of(tmp_path, of="{metric: velocity.viv, backbone: dit}"), table)
    assert "no such target, backbone or guidance scale" in foreign["reason"]
    one = verdict(claims, table.assign(cluster="baseline"))
    assert one["verdict"] == NOT_TESTABLE
    assert "24 tokenizers in 1 clusters, fewer than 4" in one["reason"]
    failed = verdict(claims, table.assign(failed=table["metric"] == TARGET))
    assert "generation failed" in failed["reason"]
    some = table.assign(failed=(table["metric"] == TARGET) & (table["backbone"] == "sit-b"))
    left = verdict(claims, some)
    assert (left["verdict"], left["rows"]) == (REPRODUCED, 2)
    assert "left out: generation failed (sit-b, conv-a)" in left["reason"]
    options = json.dumps({"chance": 1 / 12})
    lnc = table["metric"] == LNC
    chance = table.assign(
        value=table["value"].where(~lnc, 0.085 + 0.001 * table["value"]),
        options=table["options"].where(~lnc, options),
    )
    row = verdict(claims_of(tmp_path, of=f"{{metric: {LNC}}}"), chance)
    assert row["verdict"] == NOT_TESTABLE
    assert f"{LNC} does not leave chance in conv-a" in row["reason"]


def test_unknown_noise_leaves_a_contradiction_undecided(tmp_path):
    def weak(frame):
        rng = np.random.default_rng(0)
        viv = frame["metric"] == "velocity.viv"
        own = 0.35 * frame["value"] + rng.normal(size=len(frame))
        return frame.assign(value=frame["value"].where(~viv, own))

    table = measurement_table(60, retrained=0, edit=weak)
    claims = claims_of(tmp_path, expect="{at_least: 0.9}")
    known = verdict(claims, table)
    assert known["verdict"] == CONTRADICTED
    unknown = noise_floor(table).assign(low=np.nan, reliability=np.nan)
    row = verdict(claims, table, unknown)
    assert row["verdict"] == UNDECIDED
    assert "noise of seeds may be the reason" in row["reason"]


def test_shipped_claims_are_checked_and_none_is_named_twice(table):
    claims = [*load_claims(CLAIMS), *load_claims(LATENT_CLAIMS)]
    findings = table_frame("latent_findings", [])
    ledger = check_claims(claims, table, profiles_of(table), noise_floor(table), findings)
    assert list(ledger["id"]) == [claim.id for claim in claims]
    assert set(ledger["verdict"]) <= set(VERDICTS)
    assert (ledger["reason"] != "").all()
    by_id = ledger.set_index("id")
    assert by_id.loc["viv-strong", "verdict"] == REPRODUCED
    assert by_id.loc["values-sit-b", "verdict"] == NOT_TESTABLE
    assert by_id.loc["best-guidance-range", "verdict"] != NOT_TESTABLE
    tests = [repr((c.statistic, c.plus, c.minus)) for c in load_claims(CLAIMS)]
    assert len(set(tests)) == len(tests)
    assert load_claims(FISHER_CLAIMS)


def test_what_is_called_weak_is_weak_in_either_direction():
    weak = [c for c in load_claims(CLAIMS) if c.id.startswith(("weak-", "rotation-equivariance"))]
    assert [(c.region.low, c.region.high) for c in weak] == [(-0.5, 0.5)] * 2


def test_claims_of_a_frechet_distance_speak_of_fid_alike():
    """In Inception's features the target is `generation.fid`: the paper's own study."""
    ours = measurement_table(12, backbones=("sit-b",))
    theirs = ours.assign(metric=ours["metric"].replace(TARGET, "generation.fid"))
    profiles = profiles_of(ours)
    ledgers = [
        check_claims(load_claims(CLAIMS), table, profiles, noise_floor(table), pd.DataFrame())
        for table in (ours, theirs)
    ]
    tested = [set(ledger.loc[ledger["value"].notna(), "id"]) for ledger in ledgers]
    assert tested[0]
    assert tested[0] == tested[1]


def test_a_tiny_study_tests_nothing_and_breaks_nothing():
    table = measurement_table(2, seeds=1, backbones=("sit-b",))
    ledger = check_claims(
        load_claims(CLAIMS), table, profiles_of(table), noise_floor(table), pd.DataFrame()
    )
    assert (ledger["verdict"] == NOT_TESTABLE).all()


def test_headline_metrics_that_a_study_has():
    table = measurement_table(2)
    assert matching(predictors(table), HEADLINE) == list(HEADLINE[:4])
    assert matching(predictors(table), ("continuity.ifd_*", "velocity.t*")) == ["velocity.tau"]


def test_derived_numbers_of_tokenizers(tmp_path):
    """The made tables put the optimum at 1.5 + q/10: better (smaller q) wants less."""
    scales = tuple(np.round(np.arange(1.0, 2.05, 0.1), 1))
    table = measurement_table(10, scales=scales, backbones=("sit-b",), noise=0.0, retrained=0)
    base = table[(table["metric"] == TARGET) & (table["seed"] == 0)]
    best = base.loc[base.groupby("tokenizer")["value"].idxmin()].set_index("tokenizer")["guidance"]
    first = base[base["guidance"] == 1.0].set_index("tokenizer")["value"]
    row = verdict(claims_of(tmp_path, of=f"{{metric: {OPTIMUM}}}"), table)
    assert row["value"] == pytest.approx(np.corrcoef(best[first.index], first)[0, 1])
    share = f"{{metric: {OPTIMUM}, inside: [1.5, 2.0]}}"
    row = verdict(claims_of(tmp_path, of=share, statistic="share"), table)
    assert row["value"] == pytest.approx(best.between(1.5, 2.0).mean())
    found = guidance_optima(check_measurements(table)).iloc[0]
    assert (found["value"], found["low"]) == pytest.approx((row["value"], row["low"]))
    profiles = profiles_of(table)
    gaps = profiles[profiles["guidance"] == 1.0]
    gaps = gaps.assign(gap=(gaps["value"] - 1).abs()).groupby("tokenizer")["gap"].mean()
    y = cells(table, TARGET, TARGET, "sit-b", 1.0).rows.set_index("tokenizer")["y"]
    row = verdict(claims_of(tmp_path, of=f"{{metric: {DEVIATION}}}"), table)
    assert row["value"] == pytest.approx(np.corrcoef(gaps[y.index], y)[0, 1])
    # of eight segments the first five have their middle before two thirds of the way
    rng = np.random.default_rng(0)
    profiles["value"] = 1 + rng.normal(scale=0.1, size=len(profiles))
    own = profiles[profiles["guidance"] == 1.0]
    for name, part in ((EARLY, own["segment"] < 5), (LATE, own["segment"] >= 5)):
        gaps = own[part].assign(gap=(own["value"] - 1).abs()).groupby("tokenizer")["gap"].mean()
        evidence = Evidence(Measured(table), profiles)
        terms, _ = evidence.terms("correlation", [Selector(metric=name)], ())
        (row,) = terms.rows
        np.testing.assert_allclose(np.sort(row.x[:, 0]), np.sort(gaps))


@pytest.mark.parametrize("statistic", ["share", "mean"])
def test_numbers_of_models_that_failed_are_not_tested(tmp_path, statistic):
    table = measurement_table(10, scales=(1.0, 2.0), backbones=("sit-b",))
    claims = claims_of(tmp_path, of=f"{{metric: {OPTIMUM}, inside: [1, 2]}}", statistic=statistic)
    assert verdict(claims, table)["verdict"] != NOT_TESTABLE
    row = verdict(claims, table.assign(failed=table["metric"] == TARGET))
    assert row["verdict"] == NOT_TESTABLE
    assert "generation failed (sit-b" in row["reason"]


def test_no_claim_is_tested_on_models_that_failed(table):
    """Claims on latents alone do not need them."""
    rows = check_claims(
        load_claims(CLAIMS),
        table.assign(failed=table["backbone"] != ""),
        profiles_of(table),
        noise_floor(table),
        table_frame("latent_findings", []),
    )
    tested = set(rows.loc[rows["verdict"] != NOT_TESTABLE, "id"])
    assert tested <= {"reconstruction-comparable", "lnc-stands-for-probing"} | {
        "perspectives-orthogonal",
        "smooth-uniform-viv-collinear",
    }


def test_power_grows_and_errors_stay_below_five_percent():
    small, large = LAYOUTS["12 in 8"], LAYOUTS["43 in 8 (the paper)"]
    yes, no = verdict_shares(STRONG, small, 2, (0.87,), draws=400)
    more, _ = verdict_shares(STRONG, large, 2, (0.87,), draws=400)
    assert more > yes > 0.5
    assert no == 0
    for region, truth, how in ((STRONG, (0.5,), {}), (STRONGER, (0.7, 0.7), {"difference": True})):
        wrong = verdict_shares(region, small, 2, truth, **how, draws=400)
        assert max(wrong) < 0.05


@pytest.mark.parametrize(
    ("statistic", "metric", "paper", "expect", "chance"),
    [
        ("fit", "semantics.lnc5, given: spatial.srss", 0.9, "{at_least: -1}", (1.0, 1.0)),
        ("fit", "semantics.lnc5, given: spatial.srss", 0.9, "{at_least: 0.5}", (0.3, 1.0)),
        ("fit", "semantics.lnc5, given: spatial.srss", 0.5, "{at_least: 0.5}", (0.0, 0.06)),
        ("shared", "[semantics.lnc5, spatial.srss]", 0.0, "{at_most: 10}", (1.0, 1.0)),
        ("shared", "[semantics.lnc5, spatial.srss]", 0.7, "{at_most: 0.25}", (0.0, 0.06)),
        ("share", f"{OPTIMUM}, inside: [1, 2]", 1.0, "{at_least: 0.5}", (1.0, 1.0)),
        ("share", f"{OPTIMUM}, inside: [1, 2]", 0.5, "{at_least: 0.5}", (0.0, 0.06)),
    ],
)
def test_power_of_statistics_other_than_r(
    table, tmp_path, statistic, metric, paper, expect, chance
):
    """A region that holds everything is always reproduced, one that ends at the truth hardly."""
    of = f"{{metric: {metric}, paper: {paper}}}"
    (claim,) = claims_of(tmp_path, of=of, statistic=statistic, expect=expect)
    if statistic == "share":
        table = measurement_table(24, scales=(1.0, 2.0), backbones=("sit-b",))
    evidence = Evidence(Measured(table), profiles_of(table))
    terms, _ = evidence.terms(claim.statistic, claim.plus, claim.minus)
    found = power(claim, terms, evidence.clusters, 1.0)
    assert chance[0] <= found <= chance[1]


@pytest.mark.parametrize(
    ("of", "against", "every", "expect"),
    [
        ("{metric: velocity.viv, paper: 0.1}", "", "", "{at_most: 0.5}"),
        ("{metric: velocity.viv, paper: 0.8, backbone: sit-b}", "", "", "{at_least: 0.5}"),
        (
            "{metric: velocity.viv, paper: 0.8, backbone: sit-b}",
            "{metric: semantics.lnc5, paper: 0.5, backbone: lightningdit-b}",
            "",
            "{between: [-0.4, 0.9]}",
        ),
        (
            "[{metric: velocity.viv, paper: 0.8}, {metric: spatial.srss, paper: 0.9}]",
            *("", "true", "{at_least: 0.3}"),
        ),
    ],
)
def test_power_counts_verdicts(table, tmp_path, monkeypatch, of, against, every, expect):
    """Slowly: every data set by itself, through the rule that gives verdicts."""
    further = {"against": against} if against else {}
    further |= {"every": every} if every else {}
    draws = 50
    monkeypatch.setattr("diffusability.claims.power.DRAWS", draws)
    (claim,) = claims_of(tmp_path, of=of, expect=expect, **further)
    evidence = Evidence(Measured(table), profiles_of(table))
    terms, _ = evidence.terms(claim.statistic, claim.plus, claim.minus)
    for reliability, least in ((0.9, 0.7), (0.8, 0.0)):
        seed = zlib.crc32(claim.id.encode())
        made = simulate(claim.statistic, terms, evidence.clusters, reliability, draws, seed)
        counted = 0
        for draw in range(draws):
            only = made.map(lambda row, k=draw: replace(row, x=row.x[:, [k]], y=row.y[:, [k]]))
            found = evaluate(
                claim.statistic, only, evidence.clusters, least=claim.least, confidence=0.95
            )
            ends = found.low, found.high
            free = noise_free(claim, only, evidence.clusters, ends, least)
            one, other = ((float(a[0]), float(b[0])) for a, b in (ends, free))
            counted += decide(claim.region, one, other)[0] == REPRODUCED
        found = power(claim, terms, evidence.clusters, reliability, 0.95, least)
        assert found == pytest.approx(counted / draws)


def test_simulated_rows_are_of_one_study():
    """A metric is one variable wherever it stands, and backbones share the quality."""
    clusters, index = [f"c{k}" for k in range(2000)], np.arange(2000)

    def row(metric, paper, **labels):
        labels = {"target": "t", "backbone": "b", "guidance": 1.0, "family": "f"} | labels
        return Row(labels | {"metric": metric}, index, np.empty((0, 1)), paper=paper)

    def r(a, b):
        return np.corrcoef(a[:, 0], b[:, 0])[0, 1]

    pairs = [row(a, 0.6, target=b, backbone="") for a, b in combinations("xyz", 2)]
    (xy, xz, yz) = simulate("shared", Terms([pairs]), clusters, 1.0, 1, 0).rows
    np.testing.assert_array_equal(xy.x, xz.x)
    np.testing.assert_array_equal(xy.y, yz.x)
    np.testing.assert_array_equal(xz.y, yz.y)
    assert [r(one.x, one.y) for one in (xy, xz, yz)] == pytest.approx([0.6] * 3, abs=0.05)
    fits_ = [row("x", 0.64, given="z", backbone=b) for b in ("b", "c")]
    one, other = simulate("fit", Terms([fits_]), clusters, 0.5, 1, 1).rows
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.given, other.given)
    for found in (one, other):  # half of what is explained is noise of seeds
        design = np.column_stack([np.ones(2000), found.x, found.given])
        left = found.y - design @ np.linalg.lstsq(design, found.y, rcond=None)[0]
        assert 1 - left.var() / found.y.var() == pytest.approx(0.32, abs=0.05)
        share = r2_of_two(found.x, found.given, found.y)[0]
        assert share == pytest.approx(1 - left.var() / found.y.var())
    assert r(one.y, other.y) == pytest.approx(0.32 + 0.68 * 0.9, abs=0.05)
    turned = [row("x", 0.7, given="z"), row("z", 0.6, given="x")]
    one, other = simulate("partial", Terms([turned]), clusters, 1.0, 1, 2).rows
    np.testing.assert_array_equal(one.x, other.given)
    assert partial(one.x, one.y, one.given)[0] == pytest.approx(0.7, abs=0.05)
    assert partial(other.x, other.y, other.given)[0] == pytest.approx(0.6, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("words", [words for words in TRUTHS if "border" in words])
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("families", [1, 2])
def test_type_one_error(words, layout, families):
    region, truth, how = TRUTHS[words]
    wrong = verdict_shares(region, LAYOUTS[layout], families, truth, **how, draws=4000)
    assert max(wrong) < 0.05


@pytest.mark.release
def test_a_study_is_told_before_it_runs_what_it_can_test(capsys, monkeypatch):
    claims = load_claims(CLAIMS)
    monkeypatch.setattr("diffusability.claims.power.DRAWS", 100)
    paper, smoke = (
        power_table(load_study(REPOSITORY / "studies" / f"{name}.yaml"), claims).set_index("claim")
        for name in ("imagenet256", "smoke")
    )
    assert paper.loc["viv-strong", "power"] > 0.7
    assert (paper.loc["viv-strong", "tokenizers"], paper.loc["viv-strong", "rows"]) == (86, 12)
    assert paper.loc["viv-strong", "power"] > paper.loc["viv-with-guidance", "power"]
    # no seed is repeated there: noise may be the reason of any weak correlation
    assert paper.loc["rotation-equivariance-unrelated", "power"] == 0
    unknown = paper[paper["power"].isna()]
    assert set(unknown.index) == {
        "reconstruction-comparable",  # a standard deviation
        "viv-and-srss-most-stable",  # ranges
        "ifid-less-stable",
        "ratio-against-variance",  # a mean
    }
    assert set(unknown["note"]) == set(NOT_COMPUTED.values())
    assert paper.loc["three-hold-for-is", "note"] == ASSUMED
    assert paper.loc["viv-strong", "note"] == ""
    assert smoke["power"].isna().all()
    text = power_text(load_study(REPOSITORY / "studies" / "smoke.yaml"), claims)
    assert f"tests none of the {len(claims)} claims" in text
    assert "nan" not in text.lower()
    assert set(smoke["note"]) == {"no family has 3 tokenizers"}
    assert main(["plan", "--claims", "--configfile", str(REPOSITORY / "config.yaml")]) == 0
    said = capsys.readouterr().out
    assert "viv-strong" in said
    assert ASSUMED in next(line for line in said.splitlines() if "compact-classes-help" in line)
    untestable = said.split("no such metric, family, backbone or guidance scale: ")[1]
    for of_a_sweep in ("best-guidance-range", "better-want-less-guidance"):
        assert of_a_sweep in untestable.splitlines()[0]
    assert "If the paper's value is true, this study reproduces" in said
    (assumed,) = [line for line in said.splitlines() if line.startswith("Assumed: ")]
    assert "known exactly, and" in assumed


def crossed(layout: str) -> np.ndarray:
    """Return the clusters of a layout, with the encoders where these cross them."""
    if layout in CROSSED:
        return np.array(CROSSED[layout], dtype=object)
    return np.repeat([f"c{k}" for k in range(len(LAYOUTS[layout]))], LAYOUTS[layout])


@pytest.mark.parametrize(
    "layout",
    [
        *("12 in 8", "43 in 8 (the paper)", "12 in 8, 3 encoders"),
        pytest.param("43 in 9, 7 encoders", marks=pytest.mark.release),
    ],
)
def test_type_one_error_of_other_statistics(layout):
    """The truth lies on a border of the region: one-sided errors of 2.5 % are nominal."""
    clusters, draws, rng = crossed(layout), 1500, np.random.default_rng(0)
    index = np.arange(len(clusters))

    def of(paper, metric, backbone="b", **labels):
        place = {"target": "t", "backbone": backbone, "guidance": 1, "family": "f"}
        labels = place | {"metric": metric} | labels
        return Row(labels, index, np.empty((0, 1)), paper=paper)

    def beyond(kind, plus, truth, minus=(), labels=clusters):
        found = evaluate(kind, Terms(plus, minus), labels)
        assert np.isfinite(found.low).mean() > 0.98
        return max(float((found.low > truth).mean()), float((found.high < truth).mean()))

    def simulated(kind, *terms, labels=clusters):
        return simulate(kind, Terms(terms), labels, 1.0, draws, 0).plus

    same = simulated("correlation", *([of(0.7, f"m{k}")] for k in range(6)))
    paper = (0.87, 0.8, 0.79, 0.7, 0.65, 0.53)
    rows = [replace(own, paper=r) for (own,), r in zip(same, paper, strict=True)]
    assert beyond("slope", [rows], 0.0) < 0.05
    equal = [replace(row, paper=0.7) for row in rows]
    assert beyond("offset", [equal], 0.0) < 0.05
    assert beyond("within", [rows], 0.7) < 0.05
    first, second = simulated(
        "correlation", *([of(0.8, f"m{k}", b) for b in "pqrs"] for k in range(2))
    )
    assert beyond("range", [first], 0.0, [second]) < 0.05
    for kind, truth in (("partial", 0.5), ("fit", 0.5)):
        (given,) = simulated(kind, [of(truth, "m", given="g")])
        assert beyond(kind, [given], truth) < 0.05
    for truth in (0.1, 0.25):  # the borders of the claims
        pairs = [
            of(truth**0.5, a, "", target=b)
            for a, b in combinations(["m0", "m1", "m2", "m3", "m4", "m5"], 2)
        ]
        (pairs,) = simulated("shared", pairs)
        assert beyond("shared", [pairs], truth) < 0.05
    values = rng.normal(size=(len(index), draws))
    assert beyond("sd", [[Row({"metric": "m", "family": "f"}, index, values)]], 1.0) < 0.05
    assert beyond("mean", [[Row({"metric": "m", "family": "f"}, index, values)]], 0.0) < 0.05
    twice = np.concatenate([clusters, clusters])  # each in both families

    def families(metric):
        return [
            replace(of(0.8, metric, family=f"f{k}"), index=index + k * len(index)) for k in range(2)
        ]

    first, second = simulated("correlation", families("m0"), families("m1"), labels=twice)
    assert beyond("range_over_families", [first], 0.0, [second], labels=twice) < 0.05
