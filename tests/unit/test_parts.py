"""Tokenizers whose batches are cut into parts with losses of their own, over processes and time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from diffusability.artifacts.card import read_card
from diffusability.errors import StudyError, TrainingError
from diffusability.execution.rule_functions import StageFunctions
from diffusability.step_memory import Vgg16
from diffusability.study.core.spec import TrainSpec
from diffusability.study.entries.network import ConvNetwork
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import merge
from diffusability.study.reading.resolve import resolve_study
from diffusability.tokenizers.build import build_tokenizer
from diffusability.tokenizers.discriminator import PatchDiscriminator
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.perceptual import FeaturePerceptual
from diffusability.tokenizers.training_step import TokenizerLosses
from diffusability.training.batches import BatchOrder, step_generator
from diffusability.training.distributed import Processes
from diffusability.training.loop import Training, train
from diffusability.training.run import Batch, Losses, Phase, Run
from tests.conftest import REPOSITORY
from tests.unit.networks import regularizer
from tests.unit.small_diffusion import assert_same
from tests.unit.study_run import TINY, run_plan

# in about half of the parts nothing is masked, and then the mask token has no gradient
PARTS = {
    "bases": {
        "conv-f2d4": {
            "network": {"width": 4},
            "objective": {"gan": 0.5, "gan_start": 2, "gan_width": 4, "gan_layers": 1},
            "train": {"steps": 5, "batch": 16, "part": 8, "ema": 0.9, "clip": 1.0},
        }
    },
    "tokenizers": {
        "masked": {"base": "conv-f2d4", "method": "lmr", "probabilities": [0.2, 0.2, 0.1]}
    },
    "datasets": {"digits": {"size": 16}},
}


def plan_of(*over: dict[str, Any]) -> Plan:
    """Return the plan of a small study with changes laid on top."""
    study = TINY
    for change in over:
        study = merge(study, change)
    return Plan(resolve_study(study, "test"))


def base(**options: Any) -> dict[str, Any]:
    """Return a change of the base of all tokenizers."""
    return {"bases": {"conv-f2d4": options}}


def seeded(seed: int) -> torch.Generator:
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)


def tokenizer(name: str, *over: dict[str, Any]) -> Any:
    """Return a tokenizer's artifact."""
    return next(a for a in plan_of(*over).of_stage("tokenizer") if a.labels["tokenizer"] == name)


@pytest.mark.release
def test_two_processes_equal_one_that_does_both_parts_to_the_bit(workplace: Path) -> None:
    study = merge(merge(TINY, PARTS), base(gpus=2))
    Path("study.yaml").write_text(yaml.safe_dump(study))
    run_plan(plan_of(PARTS), "dataset", "encoder")
    script = [str(REPOSITORY / "scripts" / "make.py"), "tokenizer", "--study", "study.yaml"]
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    result = subprocess.run(
        [*launcher, "--nproc-per-node", "2", *script, "--name", "masked/s0", "--threads", "2"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    made = tokenizer("masked", PARTS, base(gpus=2))
    assert made.fingerprint == tokenizer("masked", PARTS).fingerprint
    assert read_card(Path(made.path))["local"]["gpus"] == 2
    both = load_file(Path(made.path) / "model.safetensors")
    for file in sorted(Path(made.path).iterdir()):
        file.unlink()
    alone = run_plan(plan_of(PARTS, {"select": {"tokenizers": ["masked"]}}), "tokenizer")
    assert_same(both, load_file(alone["tokenizer/masked/s0"] / "model.safetensors"))


def variance_run(state: Path, batch: int = 6, part: int | None = 2, **changes: Any) -> Run:
    """One step of a loss that is no mean over images: a ratio, with noise."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(batch: Batch) -> Losses:
        shown = data[batch.picked]
        noise = torch.rand(len(shown), generator=batch.generator, dtype=torch.float64)
        found = shown @ weight + noise
        return Losses(found.square().mean() / (1 + found.var()))

    options = {
        "name": "ratio",
        "spec": TrainSpec(steps=1, batch=batch, lr=0.1),
        "modules": {"w": nn.ParameterList([weight])},
        "phases": [Phase("ratio", [weight], loss)],
        "images": 8,
        "seed": 5,
        "state": state,
        "part": part,
    }
    return Run(**(options | changes))


def test_the_gradient_is_the_mean_over_parts_with_numbers_of_their_own(tmp_path: Path) -> None:
    run = variance_run(tmp_path)
    start = next(run.modules["w"].parameters()).detach().clone()
    gradient = torch.zeros(2, dtype=torch.float64)
    order = BatchOrder(8, 6, 5).indices(0)
    for number in range(3):
        own = Batch(0, order, step_generator(5, 0, torch.device("cpu"), number))
        weight = start.clone().requires_grad_()
        run.phases[0].parameters[0].data = weight.data
        part = Batch(0, order, own.generator, slice(2 * number, 2 * number + 2))
        (found,) = torch.autograd.grad(run.phases[0].loss(part).total, run.phases[0].parameters)
        gradient += found / 3
    training = train(run)
    moved = training.run.phases[0].parameters[0].grad
    torch.testing.assert_close(moved, gradient, rtol=1e-12, atol=0)


def test_parts_of_one_and_of_two_processes_are_the_same(tmp_path: Path) -> None:
    draws: list[float] = []

    def loss(batch: Batch) -> Losses:
        draws.append(torch.rand((), generator=batch.generator).item())
        return Losses(run.phases[0].parameters[0].sum())

    seen = []
    for processes in [(0, 1), (0, 2), (1, 2)]:
        run = variance_run(tmp_path, batch=8, processes=Processes(*processes))
        draws.clear()
        batches = Training(run)._batches(0)
        for batch in batches:
            loss(batch)
        seen.append(([batch.part for batch in batches], list(draws)))
    (parts, numbers), (first, one), (second, two) = seen
    assert first + second == parts
    assert one + two == numbers
    assert len(set(numbers)) == 4


def test_unequal_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="batch 6 cannot be cut into parts of 4 images"):
        train(variance_run(tmp_path, part=4))
    with pytest.raises(TrainingError, match="equally many for each of 2 processes"):
        train(variance_run(tmp_path, processes=Processes(0, 2)))


def test_the_size_of_a_part_names_the_tokenizer_unless_it_is_the_batch() -> None:
    plain = tokenizer("conv-base", base(train={"batch": 16}))
    assert "part" not in plain.spec["train"]
    whole = tokenizer("conv-base", base(train={"batch": 16, "part": 16}))
    assert whole.fingerprint == plain.fingerprint
    assert tokenizer("conv-base", base(train={"part": 64})).spec["train"].get("part") is None
    cut = tokenizer("conv-base", base(train={"batch": 16, "part": 8}))
    assert cut.fingerprint != plain.fingerprint
    assert cut.spec["train"]["part"] == 8
    shared = tokenizer("conv-base", base(gpus=2, train={"batch": 16, "part": 8}))
    assert shared.fingerprint == cut.fingerprint
    assert json.loads(shared.job())["local"]["gpus"] == 2


def test_many_processes_get_memory_and_gpus() -> None:
    made = plan_of(base(gpus=8, train={"part": 8}))
    functions = StageFunctions(made, "studies/fisher_toy.yaml")
    artifact = made.of_stage("tokenizer")[0]
    wildcards = {**artifact.labels, "fingerprint": artifact.fingerprint}
    assert functions.gpus("tokenizer")["gpu"](wildcards) == 8
    assert [functions.memory("tokenizer")(wildcards, n) for n in (1, 2)] == [64_000, 128_000]
    resources = SimpleNamespace(runtime=30, gpu=8, get=lambda name, default: 8)
    command = functions.command("tokenizer")(wildcards, resources)
    assert "--nproc-per-node 8" in command
    assert "--minutes 30" in command


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"gpus": 2}, r"conv-base: gpus: 2 processes share .* set train\.part, for example to 8"),
        ({"train": {"part": 5}}, "batch 64 cannot be cut into parts of 5 images"),
        ({"train": {"part": 16}, "gpus": 3}, "equally many for each of 3 gpus"),
        ({"gpus": 0}, r"conv-base\.gpus: "),
        ({"train": {"accumulation": 2}}, r"train\.part cuts the batch into parts"),
    ],
)
def test_impossible_parts_are_refused_before_any_job(over: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        plan_of(base(**over))


@pytest.mark.release
def test_a_step_of_the_papers_tokenizer_in_parts_equals_its_definition(tmp_path: Path) -> None:
    """conv-f16d32 at 256 pixels with VGG-16, discriminator and alignment, image by image."""
    made = seeded(0)
    images, features = (
        torch.rand(2, 3, 256, 256, generator=made) * 2 - 1,
        torch.randn(2, 768, 16, 16, generator=made),
    )
    network = build_tokenizer(ConvNetwork(arch="conv"), 3, 256).initialise(seeded(1))
    options = ObjectiveSpec(perceptual=1.0, perceptual_encoder="vgg", gan=0.5, gan_start=0)
    judge = PatchDiscriminator(options, 3).initialise(seeded(2))
    alignment = regularizer("mcos+mdms", 32, 768).initialise(seeded(3))
    vgg = Vgg16().to_empty(device="cpu")
    for parameter in vgg.parameters():
        nn.init.normal_(parameter, std=0.05, generator=made)
    distance = FeaturePerceptual(vgg)
    losses = TokenizerLosses(network, Objective(options), alignment, judge, distance)

    def autoencoder(batch: Batch) -> Losses:
        shown, target = images[batch.picked], features[batch.picked]
        return losses.autoencoder_loss(shown, target, batch.step, batch.generator)

    def definition(number: int) -> torch.Tensor:
        """Eq. 12 with alignment for one image, written out."""
        image, target = images[number : number + 1], features[number : number + 1]
        noise = torch.randn(
            (1, 32, 16, 16), generator=step_generator(5, 0, torch.device("cpu"), order[number])
        )
        moments = network.to_moments(network.encoder_out(network.encoder(image)))
        mean, logvar = moments[:, :32], moments[:, 32:].clamp(-30, 20)
        latents = mean + torch.exp(logvar / 2) * noise
        found = network.decoder_out(network.decoder(network.from_latent(latents)))
        unlike = torch.zeros(())
        for one, two in zip(vgg(image), vgg(found), strict=True):
            one, two = one / one.norm(dim=1, keepdim=True), two / two.norm(dim=1, keepdim=True)
            unlike = unlike + ((one - two) ** 2).sum(1).mean() / 5
        reference = (image - found).abs().sum() + 3 * 256**2 * unlike
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()
        gan = -judge(found).mean()
        aligned = alignment.projection(latents).flatten(2)[0].T  # (256, 768)
        wanted = target.flatten(2)[0].T  # (256, 768)
        unit, goal = (x / x.norm(dim=1, keepdim=True) for x in (aligned, wanted))
        cosine = torch.relu(0.5 - (unit * goal).sum(1)).mean()
        distances = torch.relu((unit @ unit.T - goal @ goal.T).abs() - 0.25).mean()
        penalty = cosine + distances

        def norm(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return torch.autograd.grad(loss, weight, retain_graph=True)[0].norm()

        factors = [
            (norm(reference, weight) / (norm(loss, weight) + 1e-4)).detach().clamp(max=most)
            for loss, weight, most in [
                (gan, network.decoder_out.weight, 1e4),
                (penalty, network.encoder_out.weight, 1e8),
            ]
        ]
        weight = alignment.options.weight
        return reference + 1e-6 * kl + 0.5 * factors[0] * gan + weight * factors[1] * penalty

    parameters = [*network.parameters(), *alignment.parameters()]
    order = [int(number) for number in BatchOrder(2, 2, 5).indices(0).argsort()]
    wanted = [torch.zeros_like(parameter) for parameter in parameters]
    for number in range(2):
        gradients = torch.autograd.grad(definition(number), parameters)
        wanted = [total + one / 2 for total, one in zip(wanted, gradients, strict=True)]
    modules = {"tokenizer": network, "alignment": alignment, "judge": judge}
    phases = [
        Phase("autoencoder", parameters, autoencoder),
        Phase("judge", list(judge.parameters()), lambda batch: losses.discriminator_loss()),
    ]
    spec = TrainSpec(steps=1, batch=2, lr=1e-5)
    training = train(Run("full", spec, modules, phases, 2, 5, tmp_path, part=1))
    assert training.step == 1
    norm = nn.utils.get_total_norm(wanted)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * norm
