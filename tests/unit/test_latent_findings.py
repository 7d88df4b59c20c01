"""What the second paper says of latent spaces of images, on Gaussians whose curves are known."""

import json
import math

import pandas as pd
import pytest
from scipy import stats

from diffusability.analysis.frames import table_frame
from diffusability.analysis.latent_spaces import (
    AS_PAPER,
    FITS,
    fisher_totals,
    latent_spaces,
    networks,
    with_roles,
)
from diffusability.claims.claim import Claim, load_claims
from diffusability.claims.latent_findings import _Curves, _noise_steps, latent_findings
from diffusability.claims.run_estimates import LOOKS, Ranged, estimates
from diffusability.claims.verdicts import (
    CONTRADICTED,
    NOT_TESTABLE,
    REPRODUCED,
    UNDECIDED,
    check_findings,
)
from diffusability.study.core.workflow_files import LATENT_CLAIMS as CLAIMS
from diffusability.study.entries.roles import CONTROL, GPE, LEVEL, PERMUTED, PIXELS, VAE
from diffusability.study.entries.tokenizer import MEANS
from tests.unit.latent_tables import (
    BACKBONES,
    LEVELS,
    SPACES,
    latent_measurements,
    made_spectra,
    totals,
)


@pytest.fixture(scope="module")
def findings() -> pd.DataFrame:
    return latent_findings(latent_measurements(), made_spectra())


def value(found: pd.DataFrame, statistic: str, v: float | None = None, **where: str) -> float:
    """Return the one value of a statistic."""
    rows = found[found["statistic"] == statistic]
    for column, wanted in (where | ({} if v is None else {"v": v})).items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, rows
    return float(rows["value"].iloc[0])


def _of_findings() -> list[Claim]:
    return [claim for claim in load_claims(CLAIMS) if claim.table]


def verdicts(found: pd.DataFrame) -> dict[tuple[str, str], str]:
    table = check_findings(_of_findings(), found)
    keys = zip(table["id"], table["network"], strict=True)
    return dict(zip(keys, table["verdict"], strict=True))


def test_roles_follow_from_family_and_cluster() -> None:
    rows = [(name, family, cluster) for name, (family, cluster, _) in SPACES.items()]
    table = with_roles(pd.DataFrame(rows, columns=["tokenizer", "family", "cluster"]))
    roles = [PIXELS, GPE, VAE, LEVEL, LEVEL, PERMUTED, CONTROL]
    assert table["role"].tolist() == roles
    conv = with_roles(pd.DataFrame({"family": ["conv-f2d4"], "cluster": ["baseline"]}))
    assert conv["role"].tolist() == [CONTROL]


def test_totals_are_read_from_learned_curves_and_fits() -> None:
    found = fisher_totals(latent_measurements(error=0.02, seeds=(0.0,), encoders=1))
    assert networks(found) == ["dit-xs", "unet-xs", FITS]
    assert len(found) == len(SPACES) * 3 * len(LEVELS) * 3
    for row in found.to_dict("records"):
        exact = totals(SPACES[row["tokenizer"]][2], row["v"])[row["quantity"]]
        assert row["total"] == pytest.approx(exact)
        assert row["stderr"] == pytest.approx(0.02 * exact)


def test_a_singular_fit_is_trusted_and_a_misfit_is_not() -> None:
    table = latent_measurements()
    fits = table["backbone"] == ""
    singular = "rank-deficient covariance factors in 9 classes"
    misfit = "misfit: FIR below the Gaussian bound"
    for flags, expected in (
        (singular, ""),
        (f"{singular}; {misfit}", misfit),
        ("data-limited: a bound at v <= 0.1", "data-limited: a bound at v <= 0.1"),
    ):
        found = fisher_totals(table.assign(flags=table["flags"].where(~fits, flags)))
        assert set(found.loc[found["network"] == FITS, "flags"]) == {expected}
        learned = fisher_totals(table.assign(flags=flags))
        assert set(learned.loc[learned["network"] != FITS, "flags"]) == {flags}


def test_gaps_by_hand(findings) -> None:
    for v in LEVELS:
        pixel, gpe, vae = (totals(SPACES[name][2], v) for name in ("pixels", "gpe", "vae"))
        for name in ("fi", "fir"):
            raw = abs(gpe[name] / pixel[name] - 1) - abs(vae[name] / pixel[name] - 1)
            a_dimension = 0 - abs(2 * vae[name] / pixel[name] - 1)
            for network in ("dit-xs", FITS):
                where = {"v": v, "network": network}
                assert value(findings, f"{name}_gap_raw", **where) == pytest.approx(raw)
                seen = value(findings, f"{name}_gap_per_dimension", **where)
                assert seen == pytest.approx(a_dimension)

    def lead(v: float) -> float:
        f = [totals(SPACES[name][2], v)["fir"] for name in ("pixels", "gpe", "vae")]
        return v**2 / 8 * (abs(f[0] - f[2]) - abs(f[0] - f[1]))

    seen = value(findings, "fir_gap_small_noise", network="dit-xs")
    assert seen == pytest.approx(lead(LEVELS[0]) - lead(LEVELS[-1]))

    def away(name: str) -> list[float]:
        of = [[totals(SPACES[s][2], v)["fir"] for s in (name, "pixels")] for v in LEVELS]
        return [abs(a / b - 1) for a, b in of]

    gpe_away, vae_away = away("gpe"), away("vae")
    mean = sum(w * (a - b) for w, a, b in zip((0.25, 0.5, 0.25), gpe_away, vae_away, strict=True))
    for what, expected in (
        ("supremum", max(gpe_away) - max(vae_away)),
        ("mean over log v", mean),
    ):
        where = {"network": FITS, "metric": f"gpe against vae (means), {what}"}
        assert value(findings, "fir_gap_raw_curve", **where) == pytest.approx(expected)


def test_curves_by_the_papers_estimators_are_judged_beside_ours_and_nothing_is_flagged() -> None:
    table = latent_measurements(flagged=LEVELS)
    ours = table["metric"].str.startswith("fisher.curve_learned_fi_u")
    score = table[ours]
    names = score["metric"].str.replace("learned_fi", "learned_fi_score")
    options = [json.loads(text) for text in score["options"]]
    more = [json.dumps(o | {"total": 2 * o["total"]}) for o in options]
    score = score.assign(metric=names, options=more, value=2 * score["value"])
    both = pd.concat([table, score], ignore_index=True)
    totals = fisher_totals(both, as_paper=True)
    assert set(totals["flags"]) == {""}
    assert set(totals["network"]) == {f"{name}{AS_PAPER}" for name in BACKBONES}
    plain = fisher_totals(both)
    plain = plain[(plain["network"] != FITS) & (plain["quantity"] == "fi")]
    doubled = totals[totals["quantity"] == "fi"]["total"].to_numpy()
    assert doubled == pytest.approx(2 * plain["total"].to_numpy())
    found = latent_findings(both, made_spectra())
    judged = set(found.loc[found["statistic"] == "fi_gap_raw", "network"])
    assert judged == {FITS, *totals["network"]}  # ours are all flagged


def test_fits_are_judged_where_no_model_was_asked() -> None:
    table = latent_measurements()
    alone = table[table["backbone"] == ""]
    assert fisher_totals(alone, as_paper=True).empty
    found = latent_findings(alone, made_spectra())
    assert set(found.loc[found["statistic"] == "fi_gap_raw", "network"]) == {FITS}


def test_models_of_posterior_means_are_compared_and_fits_of_means_only_once(findings) -> None:
    table = latent_measurements()
    means = table[table["tokenizer"] == "vae"]
    means = means.assign(tokenizer="vae-means", family=means["family"] + MEANS)
    found = latent_findings(pd.concat([table, means], ignore_index=True), made_spectra())
    gaps = found[found["statistic"] == "fi_gap_raw"]
    spaces = {name: set(own["space"]) for name, own in gaps.groupby("network")}
    both = {"gpe against vae (draws)", "gpe against vae-means (means)"}
    assert spaces == {"dit-xs": both, "unet-xs": both, FITS: {"gpe against vae (means)"}}
    distances = set(found.loc[found["statistic"] == "distance_gap", "space"])
    assert distances == {"gpe against vae", "gpe against vae-means"}
    at = {"v": LEVELS[0], "network": "unet-xs"}
    same = [value(found, "fi_gap_raw", space=space, **at) for space in sorted(both)]
    assert same[0] == same[1]


def test_levels_and_permutations_by_hand(findings) -> None:
    for v in LEVELS:
        where = {"v": v, "network": "unet-xs"}
        # all eigenvalues are 1, so totals go with the number of dimensions: 2, 6 and 8
        step = math.log(8 / 6) - math.log(8 / 2)
        for name in ("fi", "fir", "mmse_rate"):
            assert value(findings, f"{name}_level_raw", **where) == pytest.approx(step)
            seen = value(findings, f"{name}_level_per_dimension", **where)
            assert seen == pytest.approx(0, abs=1e-12)
        assert value(findings, "fir_permuted", **where) == pytest.approx(0, abs=1e-12)
    where = {"network": FITS, "space": "level-fine"}  # one row: the smaller half is one level
    seen = value(findings, "fi_level_noise_per_dimension", **where)
    assert seen == pytest.approx(0, abs=1e-12)
    apart = [2 / (1 + x) for x in (LEVELS[-1], LEVELS[0])]
    seen = value(findings, "fi_level_noise", **where)
    assert seen == pytest.approx((apart[0] - apart[1]) / (8 / (1 + LEVELS[0])))


def test_crossing_curves_align_where_their_distance_falls_on_average() -> None:
    """At the second level the curves cross, where they are closer than at the largest noise."""
    levels = (0.1, 1.0, 2.0, 5.0, 10.0)
    logs = {
        ("fir", "level", v): math.log(1 + d) for v, d in zip(levels, (3, 0, 9, 9, 1), strict=True)
    }
    logs |= {("fir", "pixels", v): 0.0 for v in levels}
    curves = _Curves(
        "dit",
        {key: Ranged(at, 0.0) for key, at in logs.items()},
        {"level": 4, "pixels": 4},
        {},
        levels,
    )
    raw, per_dimension = _noise_steps(curves, "fir", "level", "pixels")
    assert raw["value"] == pytest.approx(1 - (3 + 0) / 2)
    assert per_dimension["value"] == pytest.approx(math.log(2) - math.log(4) / 2, abs=1e-12)


def test_encoders_by_hand(findings) -> None:
    assert value(findings, "stretch_gap") == pytest.approx(math.log(1.2 / 3.0))
    assert value(findings, "mse_gap") == pytest.approx(math.log(0.01 / 0.04))
    assert value(findings, "distance_gap", network="dit-xs") == pytest.approx(1.0)
    assert value(findings, "distance_gap", network="unet-xs") == pytest.approx(-1.0)
    seen = value(findings, "distance_to_pixels", network="unet-xs", space="vae")
    assert seen == pytest.approx(2.0)
    assert value(findings, "spectrum_rise", space="pixels") == pytest.approx(-math.log(2))
    assert value(findings, "spectrum_rise", space="gpe") == pytest.approx(math.log(2))
    assert value(findings, "spectrum_permuted", space="mixed") == pytest.approx(1.9)
    assert value(findings, "spectrum_slope_distance", space="level-fine") == pytest.approx(1.0)


def test_sizes_that_decide_alone_judge_nothing() -> None:
    table = latent_measurements()
    large = table["options"].str.replace('"dim": 6', '"dim": 60')
    found = latent_findings(table.assign(options=large), table_frame("spectra", []))
    rows = found[found["statistic"].isin(["fi_level_raw", "fir_level_raw"])]
    assert rows["low"].isna().all()
    assert rows["note"].str.startswith("dimensions alone decide: 2 and 60 beside 8").all()
    assert found.loc[found["statistic"] == "fi_level_per_dimension", "low"].notna().all()


def test_sizes_that_decide_for_a_claim_are_named(findings) -> None:
    rows = findings[findings["statistic"] == "fi_level_raw"]
    assert rows["low"].notna().all()
    assert (
        rows["note"] == "dimensions alone decide: 2 and 6 beside 8, in favour of the finer level"
    ).all()
    table = check_findings(_of_findings(), findings).set_index(["id", "network"])
    row = table.loc[("finer-levels-nearer-in-fi", "unet-xs")]
    assert row["verdict"] == REPRODUCED
    assert "dimensions alone decide" in row["reason"]
    equal = latent_measurements()
    options = equal["options"].str.replace('"dim": 6', '"dim": 2')
    found = latent_findings(equal.assign(options=options), table_frame("spectra", []))
    ties = found[found["statistic"] == "fi_level_raw"]
    assert (ties["note"] == "").all()
    assert ties["low"].notna().all()


@pytest.mark.parametrize(
    ("low", "lost", "verdict"),
    [
        ((-2.0, -2.0, -2.0), 0, REPRODUCED),
        ((-2.0, -2.0, -2.0), 1, UNDECIDED),  # a row that cannot be judged might disagree
        ((-2.0, 1.0, -2.0), 1, CONTRADICTED),  # one that disagrees is enough
        ((-2.0, -0.5, -2.0), 1, UNDECIDED),
        ((-2.0, -2.0, -2.0), 3, NOT_TESTABLE),
    ],
)
def test_all_rows_must_agree_also_those_without_an_interval(low, lost, verdict) -> None:
    names = [f"level, v = {k}" for k in range(3)]
    table = pd.DataFrame({"metric": names, "low": low, "space": "level", "network": "dit"})
    table = table.assign(high=table["low"] + 1, value=table["low"] + 0.5, note="", v=math.nan)
    table.loc[3 - lost :, ["low", "high"]] = math.nan
    table.loc[3 - lost :, "note"] = "never trained twice"
    (claim,) = (c for c in _of_findings() if c.id == "levels-align-at-large-noise-per-dimension")
    row = check_findings([claim], table.assign(statistic=claim.statistic)).iloc[0]
    assert row["verdict"] == verdict
    said = f"{lost} of 3 cannot be judged: no interval (level, v = {3 - lost}): never trained twice"
    assert (said in row["reason"]) == (0 < lost < 3)
    assert row["rows"] == 3 - lost


def test_intervals_of_a_stretch_are_positive_and_of_trained_spaces() -> None:
    table = latent_measurements(encoders=2)
    wide = table["metric"].eq("geometry.stretch_ratio") & table["tokenizer_seed"].eq(1)
    table.loc[wide, "value"] = 9.0
    extra = table[table["metric"].eq("geometry.stretch_ratio") & (table["tokenizer"] == "gpe")]
    fixed = extra.assign(tokenizer="pixels", family="pixels-f1d1", cluster="pixels", value=1.0)
    found = latent_findings(
        pd.concat([table, fixed], ignore_index=True), table_frame("spectra", [])
    )
    rows = found[found["statistic"] == "stretch_ratio"].set_index("space")
    assert rows.loc["gpe", "low"] > 0
    assert rows.loc["gpe", "high"] > 9
    assert set(rows.index) == {"gpe", "vae"}


def test_verdicts_by_network(findings) -> None:
    found = verdicts(findings)
    assert found["gpe-nearer-in-fi-per-dimension", "dit-xs"] == REPRODUCED
    # with more FI than the GPE, the VAE's raw curve is nearer to the larger space's
    assert (
        found["gpe-nearer-in-fi-of-means", FITS] == UNDECIDED
    )  # but their largest distances agree
    assert ("gpe-nearer-in-fi", FITS) not in found  # fits are of means, models of draws
    assert found["finer-levels-nearer-in-fi", "unet-xs"] == REPRODUCED
    assert found["finer-levels-nearer-per-dimension", "unet-xs"] == UNDECIDED  # equal
    assert found["gpe-nearer-to-isometry", ""] == REPRODUCED
    assert found["gpe-reconstructs-better", ""] == REPRODUCED
    assert found["table-2-dit-order", "dit-xs"] == REPRODUCED
    assert found["table-3-unet-order", "unet-xs"] == REPRODUCED
    assert found["pixels-generate-best", "dit-xs"] == REPRODUCED
    assert found["pixel-spectrum-decays", ""] == REPRODUCED
    assert found["vector-spectra-oscillate", ""] == REPRODUCED
    assert found["permutation-destroys-the-spectrum", ""] == REPRODUCED
    assert found["permutation-keeps-fir", "dit-xs"] == REPRODUCED
    for name in ("table-1-gpe-ratio", "table-2-gpe-fid", "table-3-gpe-fid"):
        assert found[name, ""] == NOT_TESTABLE


def test_nothing_is_judged_on_one_training() -> None:
    once = latent_measurements(seeds=(0.0,), encoders=1)
    found = latent_findings(once, made_spectra())
    alone = found["low"].isna()
    assert (found.loc[alone, "note"] != "").all()
    untrained = {"spectrum_rise", "spectrum_permuted", "fi_permuted", "fir_permuted"}
    # a permutation, and the fits of it, need no training
    assert set(found.loc[~alone, "statistic"]) == untrained
    assert set(found.loc[~alone & found["statistic"].str.endswith("_permuted"), "network"]) == {
        *("", FITS),
    }
    said = verdicts(found)
    assert said["gpe-nearer-in-fi", "dit-xs"] == NOT_TESTABLE
    assert said["gpe-nearer-to-isometry", ""] == NOT_TESTABLE
    assert said["permutation-keeps-fir", FITS] == REPRODUCED
    assert said["permutation-keeps-fir", "dit-xs"] == NOT_TESTABLE


def test_the_numbers_of_ffhq_are_tested_on_ffhq_alone() -> None:
    table = latent_measurements(error=0.001).assign(dataset="ffhq64")
    found = verdicts(latent_findings(table, table_frame("spectra", [])))
    assert found["table-2-gpe-fid", "dit-xs"] == CONTRADICTED  # 3, not 74.36
    assert found["table-3-gpe-fid", "unet-xs"] == CONTRADICTED
    assert found["table-1-gpe-ratio", ""] == CONTRADICTED  # 1.5 from both encoders
    assert found["pixel-spectrum-decays", ""] == NOT_TESTABLE
    once = latent_measurements(encoders=1).assign(dataset="ffhq64")
    found = verdicts(latent_findings(once, table_frame("spectra", [])))
    assert found["table-1-gpe-ratio", ""] == NOT_TESTABLE  # extremes have no error


def test_flagged_levels_judge_nothing() -> None:
    every = latent_findings(latent_measurements(flagged=LEVELS), table_frame("spectra", []))
    assert set(every.loc[every["statistic"] == "fi_gap_raw", "network"]) == {FITS}
    some = latent_findings(latent_measurements(flagged=LEVELS[:1]), table_frame("spectra", []))
    gaps = some[(some["statistic"] == "fi_gap_raw") & (some["network"] == "dit-xs")]
    assert gaps["v"].tolist() == list(LEVELS[1:])


def test_halves_of_the_noise_are_those_that_were_asked_for() -> None:
    curves = _Curves("dit", {}, {}, {}, (0.1, 0.2, 0.5, 1.0))
    assert curves.halves([0.1, 0.2, 0.5, 1.0]) == ([0.1, 0.2], [0.5, 1.0])
    assert curves.halves([0.2, 1.0]) == ([0.2], [1.0])
    assert curves.halves([0.5, 1.0]) is None  # nothing is known of small noise
    lost = latent_findings(latent_measurements(flagged=LEVELS[:1]), table_frame("spectra", []))
    row = lost[(lost["statistic"] == "fir_gap_small_noise") & (lost["network"] == "dit-xs")].iloc[0]
    assert math.isnan(row["low"])
    assert row["note"] == "most noise levels of one half have flags"


def test_a_study_of_other_tokenizers_tests_none_of_it() -> None:
    table = latent_measurements()
    foreign = table.assign(family="conv-f2d4", cluster="eq")
    found = latent_findings(foreign, table_frame("spectra", []))
    assert set(found["statistic"]) <= {"stretch_ratio", "distance"}
    assert set(verdicts(found).values()) == {NOT_TESTABLE}


def test_the_reach_of_a_mean_knows_data_and_training() -> None:
    runs = {"a": [(1.0, 0.1), (3.0, 0.1)], "b": [(5.0, 0.2)]}
    found = estimates(runs)
    wide = stats.t.isf(stats.norm.sf(LOOKS), 1)  # of all noise levels together, as of the data
    scatter = float(wide) * math.sqrt(2.0)  # one degree of freedom, variance 2
    once = estimates(runs, 1.96)["a"].reach
    narrow = float(stats.t.ppf(0.975, 1)) * math.sqrt(2.0)
    assert once == pytest.approx(math.hypot(1.96 * 0.1, narrow / math.sqrt(2)), rel=1e-3)
    assert found["a"].value == 2.0
    assert found["a"].reach == pytest.approx(math.hypot(LOOKS * 0.1, scatter / math.sqrt(2)))
    assert found["b"].reach == pytest.approx(math.hypot(LOOKS * 0.2, scatter))
    assert math.isnan(estimates({"b": [(5.0, 0.2)]})["b"].reach)
    untrained = estimates({"b": [(5.0, 0.2)]}, trained=False)
    assert untrained["b"].reach == pytest.approx(LOOKS * 0.2)
    assert math.isnan(estimates({"b": [(5.0, math.nan)]}, trained=False)["b"].reach)


def test_repeated_trainings_widen_the_intervals_of_learned_curves_alone() -> None:
    found = latent_findings(latent_measurements(seeds=(-0.1, 0.0, 0.1)), table_frame("spectra", []))
    rows = found[(found["statistic"] == "fi_gap_raw") & (found["v"] == 1.0)].set_index("network")
    width = rows["high"] - rows["low"]
    assert width["dit-xs"] > 10 * width[FITS]


def test_encoders_and_generation_in_one_table() -> None:
    table = latent_spaces(latent_measurements(error=0.1, seeds=(-0.1, 0.1), encoders=1))
    rows = table.set_index(["tokenizer", "backbone"])
    gpe = rows.loc[("gpe", "unet-xs")]
    assert gpe["distance"] == pytest.approx(2.0)  # mean of 1.9 and 2.1
    assert gpe["distance_stderr"] == pytest.approx(0.1)
    assert (gpe["distance_runs"], gpe["distance_metric"]) == (2, "generation.fd_judge")
    assert (gpe["stretch_ratio"], gpe["stretch_q99_q01"]) == (1.5, 1.2)
    assert math.isnan(gpe["stretch_ratio_stderr"])
    assert gpe["stretch_q99_q01_stderr"] == pytest.approx(0.12)
    assert gpe["mse_stderr"] == pytest.approx(0.001)
    pca = table[table["tokenizer"] == "pca"]  # nothing was generated behind it
    assert len(pca) == 1
    assert pca["backbone"].item() == ""
    assert pca[["mse", "distance"]].isna().all(axis=None)


def test_every_training_of_an_encoder_counts_the_same() -> None:
    table = latent_measurements(seeds=(0.0, 0.1, 0.2), encoders=2)
    target = table["metric"] == "generation.fd_judge"
    again = table[target & (table["tokenizer"] == "gpe") & (table["seed"] == 0)]
    again = again.assign(tokenizer_seed=1, value=again["value"] + 3)
    both = pd.concat([table, again], ignore_index=True)
    row = latent_spaces(both).set_index(["tokenizer", "backbone"]).loc[("gpe", "dit-xs")]
    assert row["distance"] == pytest.approx((3.1 + 6.0) / 2)
    assert row["distance_runs"] == 4
    found = latent_findings(both, table_frame("spectra", []))
    assert value(found, "distance", network="dit-xs", metric="gpe") == pytest.approx(4.55)


def test_claims_state_what_exact_calculation_says(findings) -> None:
    table = check_findings(_of_findings(), findings)
    said = table.set_index("id")["exact"]
    assert "Lemma B.1" in said["gpe-nearer-in-fi"].iloc[0]
    assert "arbitrary" in said["vector-spectra-oscillate"]
    assert said["table-2-dit-order"] == ""


def test_findings_that_no_selector_matches_are_not_testable(findings) -> None:
    nowhere = findings.assign(space="elsewhere", dataset="digits")
    table = check_findings(_of_findings(), nowhere).set_index("id")
    assert table.loc["table-2-gpe-fid", "verdict"] == NOT_TESTABLE
    assert (
        table.loc["table-2-gpe-fid", "reason"] == "not measured here or every estimate has a flag"
    )
