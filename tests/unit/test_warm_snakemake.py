"""Snakemake from a process that has imported it: equal to a fresh one in all that a caller sees."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import warm_snakemake

SNAKEFILE = """
rule there:
    output: "there.txt"
    shell: "echo $WORD $(cat) > {output}; pwd >> {output}"
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with warm_snakemake.serving(tmp_path_factory.mktemp("warm")) as command:
        yield command


def call(
    command: str, arguments: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with a word on its standard input."""
    return subprocess.run(
        f"{command} {arguments}",
        shell=True,
        cwd=folder,
        env=os.environ | environment,
        input="stdin",
        capture_output=True,
        text=True,
    )


def test_arguments_and_status(warm: str, tmp_path: Path) -> None:
    cold = f'"{sys.executable}" -m snakemake'
    for arguments, status in (("--version", 0), ("-n", 1), ("--cores 1 --no-such-option", 2)):
        one, other = (call(command, arguments, tmp_path) for command in (warm, cold))
        assert one.returncode == other.returncode == status
        assert one.stdout == other.stdout
        assert one.stderr.splitlines()[-1:] == other.stderr.splitlines()[-1:]


def test_folder_environment_and_streams(warm: str, tmp_path: Path) -> None:
    for word in ("one", "other"):  # a call leaves nothing behind for the next
        folder = tmp_path / word
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE)
        done = call(warm, "-c1 there", folder, WORD=word)
        assert done.returncode == 0, done.stderr
        assert "1 of 1 steps" in done.stderr
        assert (folder / "there.txt").read_text() == f"{word} stdin\n{folder}\n"


def test_a_service_that_has_ended_is_an_error(tmp_path: Path) -> None:
    with warm_snakemake.serving(tmp_path) as command:
        pass
    assert call(command, "--version", tmp_path).returncode == 1
