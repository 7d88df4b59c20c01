"""The smoke study, run once for all tests that look at finished results."""

import fcntl
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusability.study.reading.load import read_yaml
from tests.cluster import warm_snakemake
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """A command that starts Snakemake in half the time."""
    with warm_snakemake.serving(tmp_path_factory.mktemp("warm")) as command:
        yield tuple(shlex.split(command))


@pytest.fixture(scope="session")
def smoke(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str, warm: tuple[str, ...]
) -> Workspace:
    """A workspace in which the smoke study, as study.yaml, is finished. Do not change it: copy.

    Test processes that run side by side share it: the first makes it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "smoke"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished").exists():
            workspace = Workspace.create(folder / "work")
            workspace.write_study(read_yaml(REPOSITORY / "studies" / "smoke.yaml"))
            workspace.run("snakemake", "-c2", "--configfile", "study.yaml", "--show-failed-logs")
            (folder / "finished").touch()
    return Workspace(folder / "work", warm)


@pytest.fixture
def finished(smoke: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished smoke study that a test may change."""
    return smoke.copy(tmp_path / "work")
