"""envs/study.yaml: what `--sdm conda` builds holds the locked packages, and imports this one."""

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from diffusability.errors import StudyError
from diffusability.execution import job_environment
from tests.conftest import REPOSITORY

ENVIRONMENT = yaml.safe_load((REPOSITORY / "envs" / "study.yaml").read_text())


def test_pins_are_those_of_the_lock() -> None:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    locked = [line for line in lines if line and not line.startswith("#")]
    python, pip, packages = ENVIRONMENT["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert packages == {"pip": locked}, "copy the pins of requirements.lock to envs/study.yaml"


def test_it_refers_to_no_other_file() -> None:
    """Snakemake builds it from a copy in .snakemake/conda, where relative paths mean nothing."""
    for package in ENVIRONMENT["dependencies"][-1]["pip"]:
        assert re.fullmatch(r"[\w.-]+==[\w.+]+", package), package
    assert set(ENVIRONMENT) == {"channels", "dependencies"}


def workflow(*methods: str) -> Any:
    """Return as much of Snakemake's workflow as prepare_jobs reads."""
    folder = SimpleNamespace(get_path_or_uri=lambda secret_free: str(REPOSITORY / "rules"))
    return SimpleNamespace(
        deployment_settings=SimpleNamespace(
            deployment_method=[SimpleNamespace(name=method) for method in methods]
        ),
        current_basedir=folder,
        is_main_process=True,
        overwrite_workdir=None,
        main_snakefile=str(REPOSITORY / "Snakefile"),
        modifier=SimpleNamespace(is_main_snakefile=lambda: True),
    )


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What prepare_jobs sets goes again."""
    for name in (
        "PATH",
        "PYTHONPATH",
        "DIFFUSABILITY_WORKFLOW",
        "DIFFUSABILITY_RUN",
        "DIFFUSABILITY_SUBMITTED",
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("PYTHONPATH", "/other")


def test_jobs_import_the_checkout() -> None:
    job_environment.prepare_jobs(workflow("CONDA"), [], {})
    job_environment.prepare_jobs(workflow("CONDA"), [], {})
    assert os.environ["PYTHONPATH"] == f"{REPOSITORY}{os.pathsep}/other"
    assert os.environ["DIFFUSABILITY_WORKFLOW"] == str(REPOSITORY)


def test_an_installed_package_is_in_no_other_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(job_environment, "PACKAGE", tmp_path / "diffusability")
    job_environment.prepare_jobs(workflow(), [], {})
    assert os.environ["PYTHONPATH"] == "/other"
    with pytest.raises(StudyError, match="run without --sdm conda, or from a checkout"):
        job_environment.prepare_jobs(workflow("CONDA"), [], {})
