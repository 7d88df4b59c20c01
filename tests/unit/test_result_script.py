"""Scripts of tables, figures and reports: they make what was planned, from what is on its card."""

from pathlib import Path

import pytest

from diffusability.artifacts.result_card import check_result
from diffusability.execution.result_script import run, run_on_toy_table, with_card
from tests.conftest import REPOSITORY

SMOKE = ["--study", str(REPOSITORY / "studies" / "smoke.yaml")]


def written(plan: object, outputs: list[Path]) -> None:
    """Write the first file."""
    outputs[0].write_text("made")


def test_a_study_that_was_edited_meanwhile_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "table.csv"
    output.write_text("before")
    given = [*SMOKE, "--fingerprint", "0" * 16, "--output", str(output)]
    assert run(written, lambda plan: [], None, given) == 2
    said = capsys.readouterr().err
    assert "smoke.yaml: was edited while the workflow ran; run it again" in said
    assert output.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]  # and no card


def test_the_card_names_what_was_read(tmp_path: Path) -> None:
    source, output = tmp_path / "source.csv", tmp_path / "table.csv"
    source.write_text("1")
    given = [*SMOKE, "--output", str(output)]
    assert run(written, lambda plan: [str(source)], None, given) == 0
    assert output.read_text() == "made"
    check_result(output)


def test_an_edited_toy_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, output = tmp_path / "toy.csv", tmp_path / "claims.csv"
    with with_card([table], [], "fisher_toy", ""):
        table.write_text("a\n1\n")
    given = ["--table", str(table), "--output", str(output)]
    assert run_on_toy_table(written, None, given) == 0
    output.unlink()
    table.write_text("a\n2\n")
    assert run_on_toy_table(written, None, given) == 1
    assert str(table) in capsys.readouterr().err
    assert not output.exists()
