"""Commands in messages name the study, the Snakefile and the folder, quoted for a shell."""

import shlex

import pytest

from diffusability.cli import main
from diffusability.study import commands
from diffusability.study.commands import (
    Run,
    current_run,
    diffusability_command,
    set_run,
    snakemake_command,
    study_arguments,
)


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(commands.VARIABLE, "{}")  # what a test sets goes again


def test_of_the_default_study() -> None:
    assert current_run() == Run()
    assert snakemake_command("-c2", "tables") == "snakemake -c2 tables"
    assert diffusability_command("gc") == "diffusability gc"


def test_of_another_study_elsewhere() -> None:
    select = {"tokenizers": ["a", "b c"]}
    set_run(Run(["/x/my study.yaml", "b.yaml"], {"select": select}, "/f/Snakefile", "/work"))
    command = snakemake_command("-c1", "-f", "t.json")
    assert command == (
        "snakemake -c1 -f t.json --snakefile /f/Snakefile --directory /work "
        "--configfile '/x/my study.yaml' b.yaml "
        """--config 'select={"tokenizers": ["a", "b c"]}'"""
    )
    words = shlex.split(diffusability_command("gc", "--evict"))
    assert words[:3] == ["cd", "/work", "&&"]
    words = words[3:]
    assert words[:7] == [
        *("diffusability", "gc", "--evict"),
        *("--configfile", "/x/my study.yaml", "--configfile", "b.yaml"),
    ]
    assert words[7:] == ["--config", '{"select": {"tokenizers": ["a", "b c"]}}']


def test_of_a_script() -> None:
    assert study_arguments(["a b.yaml"], {}) == "--study 'a b.yaml'"
    assert study_arguments(["none"], {"name": "x"}) == """--study none --config '{"name": "x"}'"""


@pytest.mark.parametrize("text", ["3", "[]", "null", "{", "[" * 100_000])
def test_overrides_that_are_no_mapping_are_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["ls", "--config", text])
    assert "not a mapping of keys in JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gc", "--keep", "1.2.3"], "1.2.3: not a size such as 500GiB, 2T or 0"),
        (["plan", "--gpus", "x"], "x: not a number of 1 or more"),
        (["plan", "--gpus", "0"], "0: not a number of 1 or more"),
    ],
)
def test_numbers_that_are_none_are_refused_in_words(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err
