"""The README's commands that plan or look, on a clean clone; `make test-all` runs the others."""

import re

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.readme import NOT_RUN, README, blocks, commands, long_commands, quick_commands
from tests.workflow.workspace import Workspace

PATHS = re.compile(r"`((?:metrics|studies|benchmarks|docs)/[\w./-]+)`|\]\((docs/[^)#]+)[^)]*\)")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workflow without results."""
    return Workspace.create(tmp_path_factory.mktemp("readme") / "work")


@pytest.mark.parametrize("command", quick_commands())
def test_command_without_results(clean: Workspace, command: str) -> None:
    result = clean.run("bash", "-c", command, check=False)
    assert result.returncode == 0, result.stdout


def test_every_command_is_run_by_one_tier_or_named() -> None:
    run = {*quick_commands(), *long_commands(), "make study"}
    assert set(commands()) == run | (NOT_RUN & set(commands()))
    assert {"make study", "make test"} <= set(commands())
    assert len(quick_commands()) >= 3


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python")
    exec(compile(block, "README.md", "exec"), {})
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    value, error = map(float, printed["velocity.viv"].split())
    assert 0 < error < value < 2  # of normal latents; the values are tested elsewhere


def test_named_files_exist() -> None:
    roots = (REPOSITORY, REPOSITORY / "diffusability")
    for names in PATHS.findall(README):
        path = "".join(names)
        assert any((root / path).exists() for root in roots), path
