"""What a person meets first: dry-runs on a clean clone, errors before any job, scripts' help."""

import re
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace

SCRIPTS = sorted(p.name for p in (REPOSITORY / "scripts").glob("*.py"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workflow without results."""
    return Workspace.create(tmp_path_factory.mktemp("clean") / "work")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_explain_themselves(clean: Workspace, script: str) -> None:
    output = clean.run("python", f"scripts/{script}", "--help").stdout
    assert "usage:" in output
    assert "--study" in output or "--table" in output  # a table needs no study


def test_default_study_plans_without_results(clean: Workspace) -> None:
    output = clean.run("snakemake", "-n").stdout
    assert "train_tokenizer" in output
    assert not (clean.path / "results").exists()


def test_slurm_profile_plans(clean: Workspace) -> None:
    assert "train_diffusion" in clean.run("snakemake", "--profile", "slurm", "-n").stdout


def test_the_papers_study_plans_without_data(clean: Workspace) -> None:
    study = "studies/imagenet256.yaml"
    output = clean.run("snakemake", "-n", "-q", "rules", "--configfile", study).stdout
    for rule, count in (("train_tokenizer", 86), ("cache_latents", 86), ("train_diffusion", 344)):
        assert re.search(rf"^{rule} +{count}$", output, re.MULTILINE)


def test_the_papers_study_does_not_start_without_data(clean: Workspace) -> None:
    part = "select={tokenizers: [conv-f16d32-repa-clipl], backbones: [sit-b], metrics: [velocity]}"
    study = "studies/imagenet256.yaml"
    result = clean.run("snakemake", "-c1", "--configfile", study, "--config", part, check=False)
    assert result.returncode != 0
    assert "aborted before any job started" in result.stdout
    for line in ("images of `imagenet`: not at data/imagenet;", "weights of clip-l: not at /"):
        assert line in result.stdout
    assert not list(clean.path.glob("results/**/provenance.json"))


def test_a_given_study_replaces_the_default(clean: Workspace) -> None:
    jobs = clean.planned(study="studies/smoke.yaml")
    trained = [job.split(",")[0] for job in jobs["train_tokenizer"]]
    assert trained == ["tokenizer=conv-base", "tokenizer=conv-vf-glyph"]


def test_a_wrong_study_stops_before_any_job(clean: Workspace) -> None:
    clean.write_study({"name": "x", "tokenisers": {}}, "wrong.yaml")
    result = clean.run("snakemake", "-c2", "--configfile", "wrong.yaml", check=False)
    assert result.returncode != 0
    assert "tokenisers: unknown key (did you mean `tokenizers`?)" in result.stdout
    assert "aborted before any job started" in result.stdout
    assert "Traceback" not in result.stdout
    assert not (clean.path / "results").exists()


def test_an_unknown_selection_stops_before_any_job(clean: Workspace) -> None:
    result = clean.run(
        "snakemake", "-n", "--config", "select={tokenizers: [conv-bas]}", check=False
    )
    assert result.returncode != 0
    assert "unknown tokenizer `conv-bas` (did you mean `conv-base`?)" in result.stdout


def test_a_file_that_is_no_yaml(clean: Workspace) -> None:
    (clean.path / "broken.yaml").write_text("tokenizers: [1, 2\n")
    result = clean.run("snakemake", "-n", "--configfile", "broken.yaml", check=False)
    assert result.returncode != 0
    assert "not valid JSON or YAML" in result.stdout  # Snakemake reads it before we can
    direct = clean.run("diffusability", "ls", "--study", "broken.yaml", check=False)
    assert direct.returncode == 2
    assert "this is not YAML" in direct.stdout


def test_verify_of_nothing(clean: Workspace) -> None:
    assert "0 artifacts verified, 0 problems" in clean.run("diffusability", "verify").stdout
    missing = clean.run("diffusability", "verify", "results/nowhere", check=False)
    assert missing.returncode == 1
    assert "no such artifact" in missing.stdout


def test_tables_that_are_not_there_yet(clean: Workspace) -> None:
    result = clean.run("diffusability", "show", check=False)
    assert result.returncode == 1
    assert "Make it with: snakemake -c2 tables" in result.stdout


def test_python_is_the_one_that_runs_snakemake(clean: Workspace) -> None:
    # without an activated environment the jobs must still find its interpreter
    rules = clean.path / "which.smk"
    rules.write_text(
        (clean.path / "Snakefile").read_text() + "\nrule which:\n    shell: 'which python'\n"
    )
    folder = sys.executable.rpartition("/")[0]
    result = clean.run(
        "env", "PATH=/usr/bin:/bin", f"{folder}/snakemake", "-s", "which.smk", "-c1", "which"
    )
    assert f"{folder}/python" in result.stdout
