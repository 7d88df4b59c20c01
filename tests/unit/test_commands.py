"""Commands in messages name the study, the Snakefile and the folder, quoted for a shell."""

import shlex

import pytest

from diffusability import __version__
from diffusability.cli import main
from diffusability.errors import StudyError
from diffusability.study.core import commands
from diffusability.study.core.commands import (
    Run,
    current_run,
    diffusability_command,
    set_run,
    snakemake_command,
    study_arguments,
)
from diffusability.study.reading.load import load_study
from diffusability.study.reading.yaml_file import read_overrides
from diffusability.study.study import Study
from tests.conftest import REPOSITORY


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
    assert words[7:] == ["--config", 'select={"tokenizers": ["a", "b c"]}']


def test_of_a_script() -> None:
    assert study_arguments(["a b.yaml"], {}) == "--study 'a b.yaml'"
    assert study_arguments(["none"], {"name": "x"}) == """--study none --config 'name="x"'"""


def test_what_a_command_prints_is_read_back_as_it_was() -> None:
    given = {"select": {"tokenizers": ["a", "1"], "seeds": [0, 1]}, "report": "ä.html", "x": 1e-5}
    words = shlex.split(study_arguments([], given))
    assert words[0] == "--config"
    assert read_overrides(words[1:]) == given


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"diffusability {__version__}\n"


def test_overrides_are_written_as_for_snakemake(capsys: pytest.CaptureFixture[str]) -> None:
    study = str(REPOSITORY / "studies" / "smoke.yaml")
    assert main(["ls", "--configfile", study, "--config", "select={metrics: [velocity]}"]) == 0
    listed = capsys.readouterr().out
    assert "results/velocity/" in listed
    assert "results/spatial/" not in listed


def test_numbers_may_be_texts_as_snakemake_reads_them() -> None:
    smoke = REPOSITORY / "studies" / "smoke.yaml"

    def study(size: object, angle: object) -> Study:
        metrics = {"equivariance": {"rotations": [angle]}}
        return load_study(smoke, {"datasets": {"digits": {"size": size}}, "metrics": metrics})

    assert study("16", "90") == study(16, 90)
    with pytest.raises(StudyError, match="datasets.digits.size: unknown value `7`"):
        study("7", 90)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "--config '3': is not KEY=VALUE"),
        ('{"select": {"metrics": ["spatial"]}}', "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("select={a: 1", "--config select: this is not YAML"),
        ("select={a: 010}", "--config select, line 1"),
        ("select=" + "[" * 100_000, "--config select: lists or mappings are too deeply nested"),
        ("select=3", "select: expected a mapping of keys to values, got 3"),
    ],
)
def test_overrides_that_are_none_are_refused(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", "--config", text]) == 2
    assert message in capsys.readouterr().err


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
