"""The diffusion stage on a chain of seconds: bad input, evicted and mirrored latents, processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.diffusion.load import backbone_spec
from diffusability.errors import ArtifactError, TrainingError
from diffusability.stages import command
from diffusability.stages.diffusion import _scale
from diffusability.stages.inputs import Inputs
from diffusability.stages.make import make as make_files
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.reading.load import merge, read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.tokenizers.posterior import Posterior
from tests.conftest import REPOSITORY

TINY = merge(
    read_yaml(REPOSITORY / "studies" / "smoke.yaml"),
    {
        "bases": {"conv-f2d4": {"train": {"steps": 2}}},
        "backbones": {"sit-a": {"depth": 1, "width": 16, "train": {"steps": 3}}},
        "encoding": {"shard": 500},
    },
)
NAME = "conv-base/s0/sit-a/s0"


def chain(over: dict[str, Any] | None = None) -> dict[str, Artifact]:
    """Return the artifacts of one diffusion model, by stage, upstream first."""
    plan = Plan(resolve_study(merge(TINY, over or {}), "test"))
    model = next(a for a in plan.of_stage("diffusion") if a.name == NAME)
    return {**model.upstream, "diffusion": model}


def job_of(artifact: Artifact) -> Job:
    """Return the artifact's job."""
    return Job.from_json(artifact.job())


def make(artifact: Artifact) -> Path:
    """Make one artifact, whose inputs are there, and return its folder."""
    job = job_of(artifact)
    if not (job.path / "provenance.json").exists():
        with job.writing() as folder:
            make_files(job, folder)
    return job.path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with dataset, tokenizer, latents and diffusion model."""
    folder, before = tmp_path_factory.mktemp("chain"), Path.cwd()
    os.chdir(folder)
    try:
        for artifact in chain().values():
            make(artifact)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the chain as working directory, its diffusion model still to be made."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(chain()["diffusion"].path)
    return tmp_path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model's folder."""
    return load_file(folder / "model.safetensors")


def test_evicted_latents_are_restored_before_a_training(made: Path, workspace: Path) -> None:
    shutil.rmtree("results/cache")
    with pytest.raises(ArtifactError, match="4 of its 4 bulk files were evicted or altered"):
        make(chain()["diffusion"])
    job = job_of(chain()["latents"])
    with job.restoring() as folder:
        make_files(job, folder)
    path = make(chain()["diffusion"])
    again, first = weights(path), weights(made / path)
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_mirrored_latents_train_another_model(made: Path, workspace: Path) -> None:
    mirrored = chain({"encoding": {"flip": True}})
    plain = make(chain()["diffusion"])
    for artifact in mirrored.values():
        path = make(artifact)
    shards = sorted(Path("results/cache/latents", mirrored["latents"].fingerprint).glob("*.safet*"))
    assert len(shards) == 4
    assert "mirrored_mean" in load_file(shards[0])
    first, second = weights(plain), weights(path)
    assert torch.equal(first["mean"], second["mean"])  # the scale is of the unmirrored images
    assert not torch.equal(first["network.final.out.weight"], second["network.final.out.weight"])


def test_diverged_training_says_so_and_leaves_no_artifact(workspace: Path) -> None:
    model = chain({"backbones": {"sit-a": {"train": {"steps": 30, "lr": 1e30}}}})["diffusion"]
    with pytest.raises(TrainingError, match=r"sit-a/s0: the loss is not finite at step \d+ \(lea"):
        make(model)
    assert not Path(model.path).exists()


def test_latents_of_another_tokenizer_are_refused(workspace: Path) -> None:
    job = job_of(chain()["diffusion"])
    other = chain({"tokenizers": {"conv-base": {"train": {"steps": 3}}}})
    make(other["tokenizer"])
    path = str(make(other["latents"]))
    upstream = {**job.upstream, "latents": {**job.upstream["latents"], "path": path}}
    swapped = Job(**{**vars(job), "upstream": upstream})
    expected = chain()["latents"].fingerprint
    message = f"holds latents {other['latents'].fingerprint}, expected latents {expected}"
    with pytest.raises(ArtifactError) as caught, swapped.writing() as folder:
        make_files(swapped, folder)
    assert message in str(caught.value)
    assert not job.path.exists()


@pytest.mark.release
def test_two_processes_write_one_artifact(workspace: Path) -> None:
    Path("study.yaml").write_text(
        yaml.safe_dump(merge(TINY, {"backbones": {"sit-a": {"gpus": 2}}}))
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(REPOSITORY / "scripts" / "make.py"), "diffusion", "--study", "study.yaml"]
    result = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", *script, "--name", NAME, "--threads", "2"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    model = chain()["diffusion"]
    card = read_card(Path(model.path))
    assert card["fingerprint"] == model.fingerprint
    assert card["attempts"] == 1
    assert card["local"]["gpus"] == 2
    assert not job_of(model).state.exists()
    assert result.stderr.count(f"wrote {model.path}") == 1
    both = weights(Path(model.path))
    shutil.rmtree(model.path)
    cut = make(chain({"backbones": {"sit-a": {"train": {"accumulation": 2}}}})["diffusion"])
    assert all(torch.equal(both[name], value) for name, value in weights(cut).items())


def test_a_stage_that_cannot_be_shared_refuses_torchrun(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.run("", ["latents", "--job", chain()["latents"].job()]) != 0
    assert "2 processes, but stage latents runs in one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "x", "variable RANK is 'x', not a number"),
        ("WORLD_SIZE", "abc", "variable WORLD_SIZE is 'abc', not a number"),
        ("WORLD_SIZE", "0", "`unset WORLD_SIZE`"),
        ("WORLD_SIZE", "2", "WORLD_SIZE is 2, but the others that torchrun sets"),
        ("LOCAL_WORLD_SIZE", "", "variable LOCAL_WORLD_SIZE is ''"),
        ("LOCAL_RANK", "-1", "variable LOCAL_RANK is '-1'"),
    ],
)
def test_a_strange_environment_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert command.run("", ["diffusion", "--job", chain()["diffusion"].job()]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


def test_latents_scaled_by_draws_have_variance_one(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    plain = chain()
    drawn = chain({"backbones": {"sit-a": {"latent_scale": "draws"}}})
    assert chain({"backbones": {"sit-a": {"latent_scale": "means"}}})["diffusion"].path == (
        plain["diffusion"].path
    )
    folders = [make(which["diffusion"]) for which in (plain, drawn)]
    inputs = Inputs(job_of(drawn["diffusion"]))
    latents = inputs.latents[inputs.data.split("train")]
    torch.manual_seed(0)
    draws = Posterior(latents.mean, latents.logvar).sample(torch.Generator().manual_seed(0))
    for folder, seen in zip(folders, (latents.mean, draws), strict=True):
        state = load_file(folder / "model.safetensors")
        spread = ((seen - state["mean"]) / state["std"]).std(dim=(0, 2, 3))  # (C,)
        torch.testing.assert_close(spread, torch.ones_like(spread), rtol=0.01, atol=0)
    widths = [load_file(folder / "model.safetensors")["std"] for folder in folders]
    assert bool((widths[1] > 1.001 * widths[0]).all())
    # what the latents state is what every process would read again
    spec, stated = backbone_spec(drawn["diffusion"].spec), inputs.json("latents", "latents.json")
    quick = _scale(inputs, spec, inputs.latents)
    del stated["posterior_variance_by_channel"]
    monkeypatch.setattr(inputs, "json", lambda *names: stated)
    for a, b in zip(quick, _scale(inputs, spec, inputs.latents), strict=True):
        assert torch.equal(a, b)
