"""The README's commands, run in its order in a fresh copy: the default study is made for real."""

import re
import sys

import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace

# this very test is part of `make test`
NOT_RUN = {"make test"}
README = (REPOSITORY / "README.md").read_text()
PATHS = re.compile(r"`((?:metrics|studies|benchmarks|docs)/[\w./-]+)`|\]\((docs/[^)#]+)[^)]*\)")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Return every line of the README's shell blocks, without comments."""
    lines = [line.split(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the workflow in which `make study` has run, in the environment of the tests."""
    workspace = Workspace.create(tmp_path_factory.mktemp("newcomer") / "work")
    output = workspace.run("make", "study", f"VENV={sys.prefix}").stdout
    assert "Report: results/report.html" in output
    return workspace


@pytest.fixture(scope="module")
def table(newcomer: Workspace) -> pd.DataFrame:
    """The tidy table of the default study."""
    return pd.read_csv(newcomer.path / "results/tables/digits/measurements.csv")


def test_second_call_says_that_nothing_is_to_be_done(newcomer: Workspace) -> None:
    output = newcomer.run("make", "study", f"VENV={sys.prefix}").stdout
    assert "Nothing to be done" in output
    assert "Report: results/report.html" in output


def test_tokenizers_reconstruct(table: pd.DataFrame) -> None:
    psnr = table[table["metric"] == "reconstruction.psnr"].set_index("tokenizer")["value"]
    assert len(psnr) >= 4
    assert psnr.min() > 22, psnr.to_dict()  # dB; a blurred mean digit has about 11


def test_samples_look_like_digits(table: pd.DataFrame) -> None:
    accuracy = table[table["metric"] == "generation.class_accuracy_judge"].set_index("tokenizer")
    assert accuracy["value"].min() > 0.6, accuracy["value"].to_dict()  # chance is 0.1


@pytest.mark.parametrize("command", [c for c in commands() if c not in {*NOT_RUN, "make study"}])
def test_command_of_the_readme(newcomer: Workspace, command: str) -> None:
    result = newcomer.run("bash", "-c", command, check=False)
    assert result.returncode == 0, result.stdout


def test_every_command_is_run_or_named_here() -> None:
    assert NOT_RUN | {"make study"} <= set(commands())


def test_python_example_of_the_readme() -> None:
    (block,) = blocks("python")
    exec(compile(block, "README.md", "exec"), {})  # it must run; values are tested elsewhere


def test_files_named_in_the_readme_exist() -> None:
    roots = (REPOSITORY, REPOSITORY / "diffusability")
    for names in PATHS.findall(README):
        path = "".join(names)
        assert any((root / path).exists() for root in roots), path
