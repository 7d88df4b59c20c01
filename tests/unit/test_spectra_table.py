"""The spectra of a study as one table, from its artifacts to the file and back."""

from pathlib import Path

import pandas as pd
import pytest

from diffusability.analysis.frames import read_table, write_table
from diffusability.analysis.latent_spaces import collect_spectra
from diffusability.errors import ArtifactError
from diffusability.study.planning.tables import TABLES
from tests.unit.study_run import plan_of, run_plan


def test_every_spectrum_stands_under_its_tokenizer(workplace) -> None:
    over = {"metrics": {"geometry": {"images": 40}}, "select": {"metrics": ["geometry"]}}
    plan = plan_of(over)
    folders = [path for name, path in run_plan(plan, "geometry").items() if "geometry" in name]
    table = collect_spectra(plan)
    assert list(table.columns) == list(TABLES["spectra"].columns)
    for (name, rows), folder in zip(table.groupby("tokenizer", sort=False), folders, strict=True):
        spec = plan.study.tokenizers[str(name)]
        assert set(zip(rows["family"], rows["cluster"], strict=True)) == {
            (spec.family, spec.cluster)
        }
        made = pd.read_csv(folder / "spectra.csv")
        for column in made.columns:
            assert rows[column].tolist() == made[column].tolist()
    write_table(Path("spectra.csv"), table)
    pd.testing.assert_frame_equal(read_table(Path("spectra.csv")), table, check_dtype=False)
    (folders[0] / "spectra.csv").write_text("order\n")
    with pytest.raises(ArtifactError, match=r"spectra\.csv"):
        collect_spectra(plan)


def test_a_study_without_geometry_has_an_empty_table(workplace) -> None:
    table = collect_spectra(plan_of({"select": {"metrics": ["velocity"]}}))
    assert table.empty
    write_table(Path("spectra.csv"), table)
    assert list(read_table(Path("spectra.csv")).columns) == list(table.columns)
