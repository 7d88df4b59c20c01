"""Tokenizers of like reconstruction: which fall out, and what they are left out of."""

import math

import pandas as pd
import pytest

from diffusability.analysis.answer import answer
from diffusability.analysis.equal_reconstruction import (
    NOT_MEASURED,
    _smallest,
    reconstruction_sentence,
    tokenizers,
    unequal,
    without_unequal,
)
from diffusability.analysis.measurements import check_measurements
from diffusability.claims.claim import load_claims
from diffusability.claims.verdicts import check_claims
from diffusability.figures.results import Results
from diffusability.report.scores import score_table
from diffusability.study.core.workflow_files import CLAIMS
from diffusability.study.study import AnalysisSpec, EqualReconstruction
from tests.unit.measurement_table import analysed, measurement_table, profiles_of
from tests.unit.test_tables import row, run


def limited(**limits: float) -> AnalysisSpec:
    """Return the options of an analysis with these limits."""
    return AnalysisSpec(equal_reconstruction=EqualReconstruction(**limits))


LIMITS = limited()


def table(
    psnr: dict[str, float], rfd: dict[str, float] | None = None, gfd: float = 9.0
) -> pd.DataFrame:
    """Tokenizers with one model each; the smallest gFD is `gfd`."""
    rows = [row(name, "reconstruction.psnr", value, unit="dB") for name, value in psnr.items()]
    rows += [row(n, "reconstruction.fd_judge", v, up=False) for n, v in (rfd or {}).items()]
    rows += [run(name, gfd + k) for k, name in enumerate(psnr)]
    return check_measurements(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("psnr", "out"),
    [
        ({"a": 27.0, "b": 26.5, "c": 26.0}, []),
        ({"a": 27.0, "b": 26.5, "c": 26.0, "d": 24.1}, ["d"]),
        ({"a": 29.0, "b": 26.5, "c": 26.0, "d": 25.6}, ["a"]),
        ({"a": 28.0, "b": 26.0}, ["b"]),  # of two equal windows, the better one
    ],
)
def test_the_window_that_holds_most_tokenizers_stays(
    psnr: dict[str, float], out: list[str]
) -> None:
    found = tokenizers(table(psnr), LIMITS)
    assert unequal(found) == out
    spread = max(psnr.values()) - min(psnr.values())
    assert found["psnr_spread"].tolist() == [pytest.approx(spread)] * len(psnr)
    assert all("dB" in reason for reason in found.loc[found["tokenizer"].isin(out), "reason"])
    wider = limited(psnr_spread=5)
    assert unequal(tokenizers(table(psnr), wider)) == []


def test_rfd_must_be_below_a_third_of_the_smallest_gfd() -> None:
    made = table(dict.fromkeys("abc", 27.0), {"a": 2.9, "b": 3.0, "c": 8.0})
    found = tokenizers(made, LIMITS)
    assert unequal(found) == ["b", "c"]
    assert found["smallest_gfd"].tolist() == [9.0] * 3
    assert unequal(tokenizers(made, limited(rfd_share=0.5))) == ["c"]
    assert reconstruction_sentence(found).startswith("Left out, because")
    assert "b (rFD 3 is not below 0.33 of the smallest gFD (9))" in reconstruction_sentence(found)


def test_what_was_not_measured_rules_nothing_out() -> None:
    found = tokenizers(table({"a": 27.0, "b": math.nan}), LIMITS)
    assert unequal(found) == []
    assert found["comparable"].fillna(False).tolist() == [True, False]
    assert found["reason"].tolist() == ["", NOT_MEASURED]
    nothing = tokenizers(table({"a": math.nan, "b": math.nan}), LIMITS)
    assert nothing["comparable"].isna().all()
    assert "is unknown: neither PSNR nor rFD was measured" in reconstruction_sentence(nothing)


def test_inceptions_distance_counts_too() -> None:
    made = table(dict.fromkeys("abc", 27.0), {"a": 2.9, "b": 3.0, "c": 8.0})
    renamed = made.assign(metric=made["metric"].str.replace("fd_judge", "fid"))
    assert unequal(tokenizers(renamed, LIMITS)) == ["b", "c"]


def test_reconstruction_is_known_without_diffusion_models() -> None:
    made = table(dict.fromkeys("ab", 27.0), {"a": 2.9, "b": 3.0})
    alone = made[made["metric"].str.startswith("reconstruction.")]
    assert tokenizers(alone, LIMITS)["rfd"].tolist() == [2.9, 3.0]
    other = made["metric"].replace("generation.fd_judge", "generation.fd_other")
    assert tokenizers(made.assign(metric=other), LIMITS)["rfd"].isna().all()


def test_without_the_block_nothing_is_judged_and_no_fingerprint_changes() -> None:
    made = table({"a": 27.0, "b": 20.0})
    found = tokenizers(made)
    assert found["comparable"].isna().all()
    assert reconstruction_sentence(found) == ""
    assert without_unequal(made, AnalysisSpec()) is made
    assert "equal_reconstruction" not in AnalysisSpec().canonical()


def test_families_are_judged_apart() -> None:
    psnr = {"a": 27.0, "b": 26.8, "c": 22.0, "d": 22.3}
    made = table(psnr)
    made["family"] = made["tokenizer"].map({"a": "x", "b": "x", "c": "y", "d": "y"})
    assert unequal(tokenizers(made, LIMITS)) == []


def test_every_statistic_over_tokenizers_leaves_them_out() -> None:
    def worse(frame: pd.DataFrame) -> pd.DataFrame:
        low = (frame["tokenizer"] == "t03") & (frame["metric"] == "reconstruction.psnr")
        same = frame["metric"] == "reconstruction.psnr"
        frame.loc[same, "value"] = 27.0 + frame.loc[same, "value"] / 100
        frame.loc[low, "value"] = 20.0
        return frame

    made = measurement_table(8, seeds=1, retrained=0, backbones=("sit-b",), edit=worse)
    options = LIMITS
    read = ("correlations", "regressions", "noise_floor", "tokenizers")
    limited, plain = (analysed(made, each, *read) for each in (options, AnalysisSpec()))
    claims = [claim for claim in load_claims(CLAIMS) if claim.id == "viv-strong"]
    for name, n, limits in ((limited, 7, options), (plain, 8, AnalysisSpec())):
        assert set(name["correlations"]["n"]) == {n}
        assert set(name["regressions"]["n"]) == {n}
        floor = name["noise_floor"]
        ledger = check_claims(claims, made, profiles_of(made), floor, pd.DataFrame(), limits)
        assert ledger["n"].tolist() == [n]
    assert unequal(limited["tokenizers"]) == ["t03"]
    assert len(limited["tokenizers"]) == 8


def test_the_answer_and_the_ranks_leave_them_out_too() -> None:
    target = "generation.fd_judge"

    def best_is_unequal(frame: pd.DataFrame) -> pd.DataFrame:
        same, mine = frame["metric"] == "reconstruction.psnr", frame["tokenizer"] == "t03"
        frame.loc[same, "value"] = 27.0
        frame.loc[same & mine, "value"] = 20.0
        frame.loc[mine & (frame["metric"] == target), "value"] = 0.1
        return frame

    made = measurement_table(8, seeds=1, retrained=0, backbones=("sit-b",), edit=best_is_unequal)
    tables = {
        "measurements": made,
        **analysed(made, LIMITS, "correlations", "noise_floor", "tokenizers"),
    }
    found = answer(tables, target)
    assert found.best != "t03"
    assert "t03" not in " ".join(found.details)
    assert answer({k: v for k, v in tables.items() if k != "tokenizers"}, target).best == "t03"
    scores = score_table(tables, target)
    places = {row["tokenizer"]: row["cells"][0] for row in scores["rows"]}
    assert not places["t03"].ranked
    assert places["t03"].text.startswith("0.1")
    assert places[found.best].best
    names = {name: k for k, name in enumerate(sorted(set(made["tokenizer"])))}
    results = Results(tables | {"profiles": profiles_of(made)}, names, target)
    assert "t03" not in set(results.measurements["tokenizer"])
    assert "t03" not in set(results.last["profiles"]["tokenizer"])
    assert "t03" in set(results.of_every_tokenizer.measurements["tokenizer"])


def test_tables_are_empty_where_no_tokenizer_is_left() -> None:
    made = measurement_table(5, seeds=1, retrained=0, backbones=("sit-b",))
    floor = made[made["metric"] == "reconstruction.psnr"]
    worse = floor.assign(metric="reconstruction.fd_judge", value=1e3, higher_is_better=False)
    limits = EqualReconstruction(psnr_spread=99)
    options = AnalysisSpec(equal_reconstruction=limits)
    found = analysed(check_measurements(pd.concat([made, worse])), options)
    assert len(unequal(found["tokenizers"])) == 5
    assert found["correlations"].empty


def test_the_smallest_distance_is_that_of_the_score_table():
    """A retrained tokenizer counts each of its trainings once, whatever its models."""
    rows = pd.DataFrame(
        {
            "tokenizer": ["a", "a", "a", "b"],
            "tokenizer_seed": [0, 0, 1, 0],
            "seed": [0, 1, 0, 0],
            "family": "f",
            "backbone": "s",
            "guidance": 1.0,
            "metric": "generation.fd_judge",
            "value": [4.2, 4.4, 3.5, 4.0],
            "stderr": 0.1,
        }
    )
    found = _smallest(rows, "generation.fd_judge").to_dict()
    assert found == {"f": pytest.approx((4.3 + 3.5) / 2)}
