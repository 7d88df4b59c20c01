"""The package installed from its wheel: workflow, studies, claims and captions are in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY

LOOK = """
from diffusability.claims.claim import load_claims
from diffusability.report.figures import caption
from diffusability.report.page import TEMPLATE
from diffusability.study.planning.figures import FIGURES
from diffusability.study.core.workflow_files import CLAIMS, FISHER_CLAIMS, LATENT_CLAIMS

assert TEMPLATE.exists()
assert all(caption(f"figures/{name}") for name in FIGURES)
assert all(load_claims(file) for file in (CLAIMS, FISHER_CLAIMS, LATENT_CLAIMS))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which the wheel is unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-cache-dir"]
    subprocess.run([*pip, "wheel", *options, "-w", folder, REPOSITORY], check=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


def run(site: Path, folder: Path, *words: str) -> str:
    """Run the installed package's interpreter in a folder and return what it wrote."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_data_files_are_in_the_package(site: Path, tmp_path: Path) -> None:
    run(site, tmp_path, "-c", LOOK)
    workflow = site / "diffusability" / "workflow"
    for name in ("Snakefile", "config.yaml", "rules", "scripts", "envs", "slurm", "profiles"):
        installed, source = workflow / name, REPOSITORY / name
        files = [p for p in source.rglob("*") if p.suffix in (".smk", ".py", ".yaml")] or [source]
        for file in files:
            assert (installed / file.relative_to(source)).read_bytes() == file.read_bytes()
    assert (workflow / "studies" / "smoke.yaml").exists()


def test_the_workflow_runs_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    command = ("-m", "diffusability.cli")
    planned = run(site, tmp_path, *command, "run", "-n")
    assert "train_diffusion" in planned
    assert f"{site}/diffusability/workflow/profiles/default" in planned
    assert "measure_fisher_toy" in run(site, tmp_path, *command, "run", "-n", "fisher_toy")
    study = site / "diffusability" / "workflow" / "studies" / "smoke.yaml"
    (tmp_path / "my.yaml").write_text(study.read_text())
    (dataset,) = Plan(load_study(study)).of_stage("dataset")
    run(site, tmp_path, *command, "run", "-c1", "--configfile", "my.yaml", "--", dataset.card)
    listed = run(site, tmp_path, *command, "ls", "--configfile", "my.yaml")
    assert f"done    {dataset.path}" in listed
