"""The smoke study, run once for all tests that look at finished results."""

from pathlib import Path

import pytest

from diffusability.study.load import read_yaml
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the smoke study, as study.yaml, is finished. Do not change it: copy."""
    workspace = Workspace.create(tmp_path_factory.mktemp("smoke") / "work")
    workspace.write_study(read_yaml(REPOSITORY / "studies" / "smoke.yaml"))
    workspace.run("snakemake", "-c2", "--configfile", "study.yaml", "--show-failed-logs")
    return workspace


@pytest.fixture
def finished(smoke: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished smoke study that a test may change."""
    return smoke.copy(tmp_path / "work")
