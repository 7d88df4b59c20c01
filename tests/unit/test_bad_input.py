"""Studies that are too small, or have holes: every table says so, and drops nothing silently."""

import pandas as pd
import pytest

from diffusability.analysis.measurements import check_measurements
from diffusability.errors import MeasurementError
from diffusability.study.study import AnalysisSpec
from tests.unit.measurement_table import analysed, measurement_table

QUICK = AnalysisSpec()
SRSS, SEC, PSNR = "spatial.srss", "smoothness.sec25", "reconstruction.psnr"
ENDS = {"noise_floor": ["low", "high"], "comparability": ["low", "high"]}
# of each tokenizer: they need no other
MEASURED_ALONE = ("tokenizers", "latent_spaces", "latent_findings", "declared_tests")
RELATED = ("correlations", "intercorrelations", "regressions")  # without rows where nothing can be


def tables_of(tokenizers=8, edit=None, **more):
    """Return every table of a study of one backbone."""
    table = measurement_table(tokenizers, backbones=("sit-b",), edit=edit, **more)
    return analysed(table, QUICK)


@pytest.mark.parametrize("tokenizers", [1, 2, 3])
def test_fewer_than_four_tokenizers_have_no_interval_and_a_reason(tokenizers):
    tables = tables_of(tokenizers)
    for name, ends in ENDS.items():
        assert len(tables[name]), name
        assert tables[name][ends].isna().all(axis=None), name
    for name, table in tables.items():
        if name not in MEASURED_ALONE:
            assert (table["note"] != "").all(), name
        if name in RELATED and tokenizers < 3:
            assert table.empty, name


def test_a_constant_metric_is_named_in_every_table():
    def flat(frame):
        return frame.assign(value=frame["value"].where(frame["metric"] != SEC, 1.0))

    tables = tables_of(edit=flat)
    for name in ("correlations", "intercorrelations"):
        table = tables[name]
        rows = table[(table["metric"] == SEC) | (table["target"] == SEC)]
        assert len(rows), name
        assert rows["pearson"].isna().all(), name
        assert rows["note"].str.contains("is constant").all(), name
    fits = tables["regressions"]
    touched = (fits["metric_1"] == SEC) | (fits["metric_2"] == SEC)
    assert fits.loc[touched, "r2_adj"].isna().all()
    assert fits.loc[touched, "note"].str.contains("constant").all()
    assert fits.loc[~touched, "r2_adj"].notna().all()


def test_a_constant_target_is_said():
    def flat(frame):
        return frame.assign(value=frame["value"].where(frame["metric"] != "generation.fd_judge", 5))

    tables = tables_of(edit=flat)
    assert tables["correlations"]["note"].str.contains("target is constant|are constant").all()
    assert tables["regressions"]["r2_adj"].isna().all()
    assert tables["noise_floor"]["note"].str.contains("the target is constant").all()


def test_a_metric_of_some_tokenizers_only_names_the_others():
    def partly(frame):
        return frame[~((frame["metric"] == SRSS) & frame["tokenizer"].isin(["t01", "t02"]))]

    tables = tables_of(edit=partly)
    rows = tables["correlations"][tables["correlations"]["metric"] == SRSS]
    assert rows["note"].str.contains("2 of 8 tokenizers left out: t01, t02").all()
    assert (rows["n"] == 6).all()
    fits = tables["regressions"]
    fits = fits[(fits["metric_1"] == SRSS) | (fits["metric_2"] == SRSS)]
    assert (fits["n"] == 6).all()


def test_a_family_without_a_metric_has_no_fit_of_it():
    """One family of two has no SRSS at all: nothing is left to fit there."""

    def holes(frame):
        absent = (frame["metric"] == SRSS) & (frame["family"] == "trans-f2d4")
        return frame.assign(value=frame["value"].mask(absent))

    fits = tables_of(16, edit=holes, families=("conv-f2d4", "trans-f2d4"))["regressions"]
    with_it = (fits["metric_1"] == SRSS) | (fits["metric_2"] == SRSS)
    assert set(fits.loc[with_it, "family"]) == {"conv-f2d4"}
    assert set(fits["family"]) == {"conv-f2d4", "trans-f2d4"}


def test_missing_cells_are_named():
    def holes(frame):
        lost = (frame["metric"] == "generation.fd_judge") & (frame["tokenizer"] == "t05")
        psnr = (frame["metric"] == PSNR) & (frame["tokenizer"] == "t04")
        return frame.assign(value=frame["value"].where(~lost & ~psnr))

    tables = tables_of(edit=holes)
    assert tables["noise_floor"]["note"].str.contains("1 of 8 tokenizers left out: t05").all()
    rows = tables["correlations"][tables["correlations"]["metric"] == "velocity.viv"]
    assert (rows["n"] == 7).all()
    assert rows["note"].str.contains("t05").all()
    spread = tables["comparability"].set_index("metric").loc[PSNR]
    assert "t04" in spread["note"]


def test_a_partly_sampled_scan_is_named():
    def partly(frame):
        lost = (frame["tokenizer"] == "t03") & (frame["guidance"] == 2.0)
        return frame[~lost]

    found = tables_of(edit=partly, scales=(1.0, 2.0))["guidance"]
    assert found["note"].str.contains("not sampled at every scale: t03").all()


def test_mixed_studies_and_states_are_refused():
    table = measurement_table(4, backbones=("sit-b",))
    other = table.assign(study="other")
    with pytest.raises(MeasurementError, match="2 different values of study .*compare"):
        check_measurements(pd.concat([table, other]))
    stale = table.assign(fingerprint="other")
    with pytest.raises(MeasurementError, match="two artifacts give one cell"):
        check_measurements(pd.concat([table, stale]))
