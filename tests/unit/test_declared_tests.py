"""Tests that a study declares before it is run."""

from typing import Any

import pandas as pd
import pytest

from diffusability.analysis.catalogue import HEADLINE_TARGETS
from diffusability.analysis.declared import declared_sentence
from diffusability.analysis.panels import matching
from diffusability.errors import StudyError
from diffusability.study.metrics.generation import GenerationMetric
from diffusability.study.reading.declarable import declarable_targets
from diffusability.study.reading.load import read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import AnalysisSpec, DeclaredTests
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import analysed, measurement_table

TARGET = "generation.fd_judge"
ABSENT = "metric not selected in this run or not applicable"
MISSING = "fewer than three tokenizers have both values"


def declared_of(frame: pd.DataFrame, *metrics: str, **changes: object) -> pd.DataFrame:
    entry = {
        "metrics": metrics,
        "target": TARGET,
        "backbones": ("sit-b",),
        "families": ("conv-f2d4",),
    }
    analysis = AnalysisSpec(declared=DeclaredTests.model_validate(entry | changes))
    return analysed(frame, analysis, "correlations", "declared_tests")["declared_tests"]


def follow(frame: pd.DataFrame, metric: str, sign: float) -> pd.DataFrame:
    """Let a metric be the target, but for a little."""
    target = frame[frame["metric"] == TARGET].groupby("tokenizer")["value"].mean()
    rows = frame["metric"] == metric
    frame.loc[rows, "value"] = 50 + sign * frame.loc[rows, "tokenizer"].map(target)
    return frame


def test_verdicts_follow_the_corrected_p_and_the_turned_sign() -> None:
    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        return follow(follow(frame, "velocity.viv", 1.0), "semantics.lnc5", 1.0)

    frame = measurement_table(12, seeds=1, retrained=0, backbones=("sit-b",), edit=edit)
    table = declared_of(frame, "velocity.viv", "semantics.lnc5", "spatial.lds")
    rows = table.set_index("metric")
    # lower is better for VIV and the distance, so r = 1 agrees; higher is better for LNC
    assert rows["turned_r"].iloc[:2].tolist() == pytest.approx([1, -1])
    assert rows["verdict"].iloc[:2].tolist() == ["as declared", "opposite"]
    assert rows.loc["velocity.viv", "turned_r_low"] > 0.99
    assert rows.loc["semantics.lnc5", "turned_r_high"] < -0.99
    assert rows.loc["spatial.lds", "reason"] == ABSENT
    two = rows["p"].iloc[:2].sort_values()
    assert rows["p_holm"].min() == pytest.approx(2 * two.iloc[0])
    said = "Of 3 tests declared before the run: 1 as declared, 1 opposite, 1 not testable"
    assert declared_sentence(table) == said


def test_what_cannot_be_tested_says_why() -> None:
    def failing(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(failed=frame["metric"].eq(TARGET), failed_reason="")

    frame = measurement_table(8, seeds=1, retrained=0, backbones=("sit-b",), edit=failing)
    table = declared_of(frame, "velocity.viv", "velocity.nothing")
    assert table["verdict"].tolist() == ["not testable"] * 2
    assert table["reason"].tolist() == [
        "generation failed",
        ABSENT,
    ]
    assert table["p_holm"].isna().all()


def test_a_test_that_cannot_be_made_still_counts_in_the_correction() -> None:
    frame = measurement_table(8, seeds=1, retrained=0, backbones=("sit-b",))
    made = declared_of(frame, "velocity.viv")
    with_lost = declared_of(frame, "velocity.viv", "velocity.nothing", "velocity.other")
    p = float(made["p"].iloc[0])
    assert float(made["p_holm"].iloc[0]) == pytest.approx(p)
    assert float(with_lost["p_holm"].iloc[0]) == pytest.approx(min(1.0, 3 * p))
    assert with_lost["p_holm"].isna().tolist() == [False, True, True]


def test_what_a_run_leaves_out_is_told_from_too_few_tokenizers() -> None:
    def only_two(frame: pd.DataFrame) -> pd.DataFrame:
        few = frame["metric"].eq("semantics.lnc5") & ~frame["tokenizer"].isin(["t00", "t01"])
        return frame[~few]

    frame = measurement_table(8, seeds=1, retrained=0, backbones=("sit-b",), edit=only_two)
    table = declared_of(
        frame,
        "semantics.lnc5",
        "uniformity.gini",
        backbones=("sit-b", "sit-xl"),
        families=("conv-f2d4", "trans"),
    )
    reasons = table.set_index(["family", "backbone", "metric"])["reason"]
    assert reasons["conv-f2d4", "sit-b", "semantics.lnc5"] == MISSING
    assert reasons["conv-f2d4", "sit-b", "uniformity.gini"] == ABSENT
    assert reasons["conv-f2d4", "sit-xl", "semantics.lnc5"] == "backbone not selected in this run"
    gone = f"backbone and family and {ABSENT}"
    assert reasons["trans", "sit-xl", "uniformity.gini"] == gone


def declare(**changes: Any) -> StudyError | None:
    study = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
    study["encoders"] |= dict.fromkeys("abcdef", study["encoders"]["judge"])
    study["metrics"] |= changes.pop("groups", {})
    study["select"] |= changes.pop("select", {})
    entry = {"metrics": ["velocity.viv"], "target": TARGET, "backbones": ["sit-a"]}
    study["analysis"] = {"declared": entry | {"families": ["conv-f2d4"]} | changes}
    try:
        resolve_study(study, "here")
    except StudyError as error:
        return error
    return None


def test_a_declared_test_is_of_what_the_study_measures() -> None:
    assert declare() is None
    for target in ("fd_nosuch", "fid", "fdr6", "kernel_distance_judge", "fd_*"):
        said = str(declare(target=f"generation.{target}"))
        assert f"analysis.declared.target: unknown metric `generation.{target}`" in said
    six = {"generation": {"extractor": "judge", "fdr6": [*"abcdef"]}}
    assert declare(target="generation.fdr6", groups=six) is None
    assert declare(target="generation.inception_score_judge") is None
    for metric in ("continuity.if*", "continuity.ifid", "fisher.learned_fi", "psnr"):
        assert f"unknown metric `{metric}`" in str(declare(metrics=[metric]))
    measured = ["continuity.ifd_judge", "fisher.learned_fir", "uniformity.gini"]
    assert declare(metrics=measured) is None
    said = str(declare(metrics=measured, groups={"uniformity": None, "fisher": {}}))
    assert "unknown metric `uniformity.gini`" in said
    assert "unknown metric `fisher.learned_fir`" in said
    # what a selection leaves out stays declared
    assert (
        declare(metrics=measured, select={"metrics": ["velocity"], "backbones": ["sit-b"]}) is None
    )


def test_declared_targets_are_those_that_are_correlated() -> None:
    named = {"fdr6": tuple("abcdef")}
    for extractor in ("judge", "inception"):
        names = declarable_targets(GenerationMetric(extractor=extractor, **named))
        assert matching(names, HEADLINE_TARGETS) == list(names)


def test_only_what_the_study_has_can_be_declared() -> None:
    study = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
    names = {"metrics": ["velocity.vif"], "target": "generation.fx", "backbones": ["sit"]}
    study["analysis"] = {"declared": names | {"families": ["conv-f2d4", "conv-f4d4"]}}
    with pytest.raises(StudyError) as error:
        resolve_study(study, "here")
    said = str(error.value)
    assert "analysis.declared.metrics: unknown metric `velocity.vif`" in said
    assert "analysis.declared.target: unknown metric `generation.fx`" in said
    assert "analysis.declared.families: unknown family `conv-f4d4`" in said
    assert "unknown family `conv-f2d4`" not in said


def test_a_part_of_a_study_keeps_its_declared_tests() -> None:
    study = read_yaml(REPOSITORY / "studies" / "fashion.yaml")
    study["select"] |= {"tokenizers": ["conv-base", "conv-lcr"], "repeats": {}}
    declared = resolve_study(study, "here").analysis.declared
    assert declared is not None
    assert declared.families == ("conv-f4d8", "trans-f4d8")


def test_without_a_declaration_there_are_no_tests() -> None:
    frame = measurement_table(8, seeds=1, retrained=0, backbones=("sit-b",))
    table = analysed(frame, AnalysisSpec(), "correlations", "declared_tests")["declared_tests"]
    assert table.empty
    assert declared_sentence(table) == ""
