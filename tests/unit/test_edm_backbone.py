"""EDM as a process of the workflow: entries, names, training, samples, and Fisher's questions."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusability.analysis.sampling import collect_profiles
from diffusability.artifacts.job import Job
from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.diffusion.load import backbone_spec, build_diffusion, load_diffusion
from diffusability.fisher.denoiser import from_trained
from diffusability.fisher.estimator import sample_fisher
from diffusability.stages import samples
from diffusability.stages.inputs import Inputs
from diffusability.study.planning.plan import Plan
from diffusability.training.loop import Training
from diffusability.training.run import Batch, Phase
from tests.unit.small_diffusion import CLASSES, MEAN, SHAPE, STD, small_run
from tests.unit.study_run import measurements, plan_of, run_plan

SIT = {"arch": "sit", "width": 16, "depth": 1, "heads": 1, "train": {"steps": 2}}
UNET = {
    **{"arch": "unet", "process": "edm", "width": 16, "multipliers": [1, 2], "blocks": 1},
    **{"attention": [4], "train": {"steps": 60, "lr": 2e-3, "batch": 64, "ema": 0.9}},
}
ONE = {"dataset": "digits", "tokenizers": ["conv-base"]}
PATH = ("trajectory.straightness", "trajectory.efficiency", "trajectory.angle")


def study(backbones: dict[str, Any], **over: Any) -> Plan:
    """Return the plan of one tokenizer and the given backbones."""
    select = ONE | {"backbones": list(backbones)}
    return plan_of({"backbones": backbones, "select": select} | over)


def names(plan: Plan, stage: str) -> dict[str, str]:
    return {a.labels["backbone"]: a.fingerprint for a in plan.of_stage(stage)}


# --- entries ---------------------------------------------------------------------------------


def test_the_process_stands_in_no_canonical_form_while_it_is_flow() -> None:
    plain = backbone_spec(SIT).canonical()
    assert not {"process", "edm"} & set(plain)
    assert backbone_spec(SIT | {"process": "flow"}).canonical() == plain


@pytest.mark.parametrize("entry", [SIT | {"process": "edm"}, UNET])
def test_the_canonical_form_of_edm_states_its_options_and_none_of_flow(entry: Any) -> None:
    spec = backbone_spec(entry)
    values = spec.canonical()
    assert values["edm"] == {"log_sigma_mean": -1.2, "log_sigma_std": 1.2, "sigma_data": 1.0}
    assert not {"time", "cosine"} & set(values)
    assert backbone_spec(values) == spec  # what a card holds can be read again


def test_options_reach_the_artifacts_that_they_change() -> None:
    both = {"flow": SIT, "edm": SIT | {"process": "edm"}}
    before = study(both)
    levels = study(both, sampling={"evaluations": 2, "count": 40, "edm": {"rho": 5}})
    assert names(before, "diffusion") == names(levels, "diffusion")
    assert names(before, "samples")["flow"] == names(levels, "samples")["flow"]
    assert names(before, "samples")["edm"] != names(levels, "samples")["edm"]
    scaled = study(both | {"edm": SIT | {"process": "edm", "edm": {"sigma_data": 0.5}}})
    assert names(before, "diffusion")["edm"] != names(scaled, "diffusion")["edm"]
    assert len(set(names(before, "diffusion").values())) == 2


# --- training --------------------------------------------------------------------------------


def drawn_and_moved(
    tmp_path: Path, network: str
) -> tuple[Phase, LatentDiffusion | LatentDenoiser, Tensor, Tensor, Tensor]:
    """Return a phase, its model with moved weights, indices, z-scored draws and log-variances."""
    training = Training(small_run(tmp_path, network, torch.float64))
    (phase,) = training.run.phases
    model = training.run.modules["diffusion"]
    with torch.no_grad():
        for k, weight in enumerate(model.parameters()):
            weight += 0.1 * torch.randn(
                weight.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64
            )
    indices = torch.tensor([3, 0, 5])
    mean, std = phase.loss._posteriors.fetch(indices)  # type: ignore[attr-defined]
    return phase, model, indices, mean, std


def z_scores(latents: Tensor) -> Tensor:
    """Return (B, C, H, W) latents with the mean and spread of `small_diffusion` taken out."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (latents - mean) / std


def test_the_loss_of_a_step_equals_its_restatement(tmp_path: Path) -> None:
    phase, model, indices, mean, std = drawn_and_moved(tmp_path, "edm")
    found = phase.loss(Batch(0, indices, torch.Generator().manual_seed(8)))

    generator = torch.Generator().manual_seed(8)
    data = z_scores(mean + std * torch.randn(3, *SHAPE, generator=generator))
    noise = torch.randn(3, *SHAPE, generator=generator)
    sigma = (-1.2 + 1.2 * torch.randn(3, generator=generator)).exp()
    dropped = torch.rand(3, generator=generator) < 0.1
    posteriors = phase.loss._posteriors  # type: ignore[attr-defined]
    labels = torch.where(dropped, CLASSES, posteriors.labels_of(indices))
    squares = []
    for b in range(3):
        s, x = float(sigma[b]), data[b].double()
        point = x + s * noise[b]
        inner = model.network(
            (point / (1 + s**2) ** 0.5)[None],
            torch.tensor([s], dtype=torch.float64).log() / 4,
            labels[b : b + 1],
        )[0]
        denoised = point / (1 + s**2) + s / (1 + s**2) ** 0.5 * inner
        squares.append((1 + s**2) / s**2 * (denoised - x).square().mean())
    expected = torch.stack(squares).mean()
    # noise levels are drawn in float32
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("network", ["sit", "lightningdit"])
def test_the_flow_loss_of_a_step_equals_its_restatement(tmp_path: Path, network: str) -> None:
    phase, model, indices, mean, std = drawn_and_moved(tmp_path, network)
    found = phase.loss(Batch(0, indices, torch.Generator().manual_seed(8)))

    generator = torch.Generator().manual_seed(8)
    data = z_scores(mean + std * torch.randn(3, *SHAPE, generator=generator)).double()
    noise = torch.randn(3, *SHAPE, generator=generator).double()
    if network == "sit":
        time = torch.rand(3, generator=generator)
    else:  # logit-normal
        time = torch.sigmoid(torch.randn(3, generator=generator))
    dropped = torch.rand(3, generator=generator) < 0.1
    posteriors = phase.loss._posteriors  # type: ignore[attr-defined]
    labels = torch.where(dropped, CLASSES, posteriors.labels_of(indices))
    losses = []
    for b in range(3):
        t = time[b].double()
        point = t * data[b] + (1 - t) * noise[b]
        predicted = model.network(point[None], time[b : b + 1].double(), labels[b : b + 1])[0]
        target = data[b] - noise[b]
        loss = (predicted - target).square().mean()
        if network == "lightningdit":  # the cosine term, over channels at every position
            loss = loss + (1 - torch.cosine_similarity(predicted, target, dim=0)).mean()
        losses.append(loss)
    assert found.total.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-6)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Path]]:
    """A U-Net trained as EDM on digits, and its samples at two scales with fresh noise."""
    sampling = {
        **{"solver": "heun", "evaluations": 7, "count": 40, "guidance": [1.0, 1.5]},
        "edm": {"churn": 3.0, "sigma_max": 40.0},
    }
    folder, before = tmp_path_factory.mktemp("edm"), Path.cwd()
    os.chdir(folder)
    try:
        plan = study({"unet": UNET}, sampling=sampling)
        made = run_plan(plan, "generation")
    finally:
        os.chdir(before)
    return plan, {name: folder / path for name, path in made.items()}


def test_training_on_digits_lowers_the_loss(chain: tuple[Plan, dict[str, Path]]) -> None:
    _, made = chain
    with (made["diffusion/conv-base/s0/unet/s0"] / "history.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    # the loss of one step scatters by an eighth, a mean of 20 by a thirtieth
    assert sum(losses[-20:]) < 0.85 * sum(losses[:20])


def test_samples_declare_that_they_have_no_trajectory(
    chain: tuple[Plan, dict[str, Path]],
) -> None:
    _, made = chain
    for scale in ("1", "1.5"):
        name = f"conv-base/s0/unet/s0/guidance{scale}"
        notes = json.loads((made[f"samples/{name}"] / "samples.json").read_text())
        assert notes["trajectory"] is None
        assert "length_ratio" not in notes
        cells = measurements(made[f"generation/{name}"])
        assert cells["generation.fd_judge"]["value"] > 0
        assert 0 <= cells["generation.class_accuracy_judge"]["value"] <= 1
        for metric in PATH:
            assert cells[metric]["value"] is None
            assert cells[metric]["flags"][0].startswith(
                "not applicable: the statistics are of even"
            )


def test_no_profile_is_collected(
    chain: tuple[Plan, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, made = chain
    monkeypatch.chdir(made["generation/conv-base/s0/unet/s0/guidance1"].parents[7])
    assert plan.of_stage("samples")
    assert collect_profiles(plan).empty


def trained(made: dict[str, Path]) -> LatentDenoiser:
    model = load_diffusion(made["diffusion/conv-base/s0/unet/s0"], (4, 4, 4), 10, "cpu")
    assert isinstance(model, LatentDenoiser)
    return model


def test_latents_depend_on_seed_and_index_and_not_on_the_batch(
    chain: tuple[Plan, dict[str, Path]],
) -> None:
    plan, made = chain
    model = trained(made)
    artifact = next(a for a in plan.of_stage("samples") if a.labels["guidance"] == "1.5")
    inputs = Inputs(Job.from_json(artifact.job()))
    spec = samples.SampleOptions.model_validate(artifact.spec)

    def latents(indices: range) -> Tensor:
        labels = samples._labels(inputs, spec, indices, model, conditional=True)
        return samples._latents(inputs, spec, model, labels, None, indices)

    whole = latents(range(6))
    parts = torch.cat((latents(range(2)), latents(range(2, 6))))
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(whole[0], whole[1], atol=0.1)


def test_an_unconditional_model_is_sampled_without_labels(workplace: Path) -> None:
    entry = SIT | {"process": "edm", "class_dropout": 1}
    plan = study({"free": entry}, sampling={"evaluations": 2, "count": 40})
    made = run_plan(plan, "generation")
    folder = made["samples/conv-base/s0/free/s0/guidance1"]
    assert json.loads((folder / "samples.json").read_text())["labels"] is None
    assert load_file(folder / "shard-00000.safetensors")["labels"].unique().tolist() == [10]
    cells = measurements(made["generation/conv-base/s0/free/s0/guidance1"])
    accuracy = cells["generation.class_accuracy_judge"]
    assert accuracy["value"] is None
    assert accuracy["flags"] == ["not applicable: the diffusion model is unconditional"]
    assert 1 < cells["generation.inception_score_judge"]["value"] <= 10  # of ten classes


# --- what Fisher information needs -----------------------------------------------------------


class Exact(nn.Module):
    """The exact network of N(0, I): F = 0 for EDM, u = (2t - 1) x / (t^2 + (1 - t)^2) for flow."""

    latent_channels, grid, num_classes = 2, (2, 2), 3

    def __init__(self, flow: bool) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        assert labels.tolist() == [3] * len(x)  # nobody gave labels: the null class
        t = level[:, None, None, None]
        return (2 * t - 1) / (t**2 + (1 - t) ** 2) * x if self.flow else torch.zeros_like(x)


@pytest.mark.parametrize("flow", [True, False])
def test_fisher_information_of_an_exact_network(flow: bool) -> None:
    network: Any = Exact(flow)
    model = LatentDiffusion(network) if flow else LatentDenoiser(network, 1.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, 2, 2, generator=generator, dtype=torch.float64)
    for v in (1e-3, 0.1, 1.0, 10.0):
        seen = sample_fisher(from_trained(model), x, v, seed=1, probes="exact")
        assert seen.estimate("divergence").value == pytest.approx(8 / (1 + v), rel=1e-9)
        assert seen.estimate("fir").value == pytest.approx(8 / (1 + v) ** 2, rel=1e-9)
        score = seen.estimate("score")
        assert abs(score.value - 8 / (1 + v)) < 3 * score.stderr


@pytest.mark.parametrize("entry", [UNET, SIT | {"process": "edm"}, SIT])
def test_fisher_asks_a_trained_model_with_labels(entry: Any) -> None:
    model = build_diffusion(backbone_spec(entry), (2, 4, 4), 3)
    model.network.initialise(torch.Generator().manual_seed(0))
    model = model.double()
    with torch.no_grad():
        for k, weight in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(k)
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    y = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    denoise, labels = from_trained(model), torch.tensor([0, 1, 2])
    assert torch.equal(denoise(y, 0.25), denoise(y, 0.25, model.null_labels(3)))
    found = denoise(y, 0.25, labels)
    assert not torch.allclose(found, denoise(y, 0.25))
    half = torch.full((3,), 0.5, dtype=torch.float64)
    if isinstance(model, LatentDenoiser):
        assert torch.equal(found, model(y, half, labels))
    else:  # sigma = 1/2 is t = 2/3
        point = y * 2 / 3
        velocity = model(point, torch.full_like(half, 2 / 3), labels)
        torch.testing.assert_close(found, point + velocity / 3)
    fisher = sample_fisher(denoise, y, 0.25, seed=0, probes=2, labels=labels)
    assert bool(fisher.fir.isfinite().all())
