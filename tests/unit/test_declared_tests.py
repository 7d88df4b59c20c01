"""Tests that a study declares before it is run."""

import pandas as pd
import pytest

from diffusability.analysis.declared import declared_sentence
from diffusability.errors import StudyError
from diffusability.study.load import read_yaml
from diffusability.study.resolve import resolve_study
from diffusability.study.study import AnalysisSpec, DeclaredTests
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import analysed, measurement_table

TARGET = "generation.fd_judge"
MISSING = "fewer than three tokenizers have both values"


def declared_of(frame: pd.DataFrame, *metrics: str, **changes: object) -> pd.DataFrame:
    entry = {
        "metrics": metrics,
        "target": TARGET,
        "backbones": ("sit-b",),
        "families": ("conv-f2d4",),
    }
    analysis = AnalysisSpec(declared=DeclaredTests.model_validate(entry | changes))
    return analysed(frame, analysis)["declared_tests"]


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
    assert rows.loc["spatial.lds", "reason"] == MISSING
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
        MISSING,
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
    table = analysed(frame, AnalysisSpec())["declared_tests"]
    assert table.empty
    assert declared_sentence(table) == ""
