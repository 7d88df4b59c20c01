"""The smoke study on a real Slurm, to its report; then a training that two processes share."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from diffusability.artifacts.card import read_card
from diffusability.study.core.merge import merge
from diffusability.study.reading.load import read_yaml
from tests.conftest import REPOSITORY
from tests.full.slurm.cluster import GPU_PARTITION, Cluster
from tests.full.slurm.submission import command, prepare
from tests.workflow.workspace import Workspace

SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
CHAIN = "conv-vf-glyph/s0/sit-b/s0"


@pytest.fixture(scope="module")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which Slurm has made the smoke study, report included."""
    workspace = prepare(tmp_path_factory.mktemp("slurm-smoke") / "work", SMOKE)
    workspace.run(*command(jobs=6))
    return workspace


def test_the_report_is_there_and_everything_verifies(finished: Workspace) -> None:
    assert (finished.path / "results/report-smoke.html").exists()
    verified = finished.run("diffusability", "verify").stdout
    assert re.search(r"^\d+ artifacts verified, 0 problems$", verified, re.MULTILINE)
    assert "Nothing to be done" in finished.run(*command()).stdout


def test_slurm_ran_it_as_the_profile_says(cluster: Cluster, finished: Workspace) -> None:
    fields = "State,Partition,AllocTRES,Comment,WorkDir"
    lines = cluster.ask("sacct", "-X", "-n", "-P", "-o", fields).splitlines()
    jobs = [line.split("|") for line in lines if line.endswith(f"|{finished.path}")]
    assert Counter(job[0] for job in jobs) == {"COMPLETED": len(jobs)}
    trainings = [job for job in jobs if "rule_train_" in job[3]]
    assert len(trainings) == 8  # two encoders, two tokenizers, four diffusion models
    assert {job[1] for job in trainings} == {GPU_PARTITION}
    assert all("gres/gpu=1" in job[2] for job in trainings)
    assert not list(finished.path.glob("results/state/**/*"))


def test_two_processes_in_one_allocation_train_what_one_does(
    cluster: Cluster, finished: Workspace, tmp_path: Path
) -> None:
    workspace = finished.copy(tmp_path / "work")
    (model,) = workspace.path.glob(f"results/diffusion/{CHAIN}/*/model.safetensors")
    shutil.rmtree(model.parent)
    target = str((model.parent / "provenance.json").relative_to(workspace.path))
    workspace.write_study(merge(SMOKE, {"backbones": {"sit-b": {"gpus": 2}}}))
    workspace.run(*command(target))
    card = read_card(model.parent)
    assert card["local"]["gpus"] == 2
    jobs = cluster.ask("sacct", "-X", "-n", "-P", "-o", "WorkDir,AllocTRES").splitlines()
    (allocated,) = (job.split("|")[1] for job in jobs if job.startswith(f"{workspace.path}|"))
    assert "gres/gpu=2" in allocated
    # one process that cuts the batch as the two do: equal to the bit
    shared = model.read_bytes()
    shutil.rmtree(model.parent)
    workspace.write_study(merge(SMOKE, {"backbones": {"sit-b": {"train": {"accumulation": 2}}}}))
    workspace.run("snakemake", "-c1", target, "--configfile", "study.yaml")
    assert model.read_bytes() == shared
