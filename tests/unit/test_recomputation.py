"""Activation checkpointing: the same numbers to the bit, less memory, and nowhere ignored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.diffusion.transformer import LightningDiT, SiT
from diffusability.diffusion.unet import LatentUNet
from diffusability.errors import StudyError
from diffusability.execution.plan_table import plan_table
from diffusability.nn.recomputation import Block, recompute_blocks
from diffusability.step_memory import backbone_step, kept, tokenizer_step
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight.cost import Costs
from diffusability.study.preflight.memory import CONTEXT, PASSING_RECOMPUTED, check_memory
from diffusability.study.preflight.memory import step_memory as memory_of
from diffusability.study.reading.load import load_study
from diffusability.tokenizers.training_step import TokenizerLosses
from diffusability.training.loop import Training
from tests.conftest import REPOSITORY
from tests.unit.networks import (
    conv,
    diffusion,
    discriminator,
    hierarchical,
    objective,
    regularizer,
    vit,
)
from tests.unit.small_diffusion import small_run


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def assert_equal_with_and_without(module: nn.Module, step: Any) -> None:
    """Check the losses of a step and its gradients, with every block computed again."""
    plain, expected = step(), gradients(module)
    module.zero_grad()
    assert recompute_blocks(module)
    assert torch.equal(step(), plain)
    for again, gradient in zip(gradients(module), expected, strict=True):
        assert (again is None) == (gradient is None)
        assert again is None or torch.equal(again, gradient)
    assert any(gradient is not None and gradient.any() for gradient in expected)


def awake(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(7)))
    return module


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", [SiT, LightningDiT, LatentUNet])
def test_gradients_of_backbones_are_equal_to_the_bit(kind: type, half: bool) -> None:
    sizes: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2}
    if kind is LatentUNet:
        sizes = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "heads": 2}
    network = awake(diffusion(kind, 2, (4, 4), 3, **sizes))
    x, labels = torch.randn(3, 2, 4, 4, generator=seeded(1)), torch.arange(3)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = network(x, torch.linspace(0.1, 0.9, 3), labels).float().square().mean()
        loss.backward()
        return loss.detach()

    assert_equal_with_and_without(network, step)


@pytest.mark.parametrize("build", [conv, vit, lambda: hierarchical((1, 2, 4), 2)])
def test_gradients_of_tokenizers_are_equal_to_the_bit(build: Any) -> None:
    network = build().initialise(seeded())
    images = torch.rand(2, 1, 8, 8, generator=seeded(2)) * 2 - 1

    def step() -> Tensor:
        latents = network.encode(images).sample(seeded(3))
        loss = (network.decode(latents) - images).abs().mean()
        loss.backward()
        return loss.detach()

    assert_equal_with_and_without(network, step)


def test_a_step_with_adaptive_weights_is_equal_to_the_bit() -> None:
    """Its gradients at single layers go through the blocks several times."""
    network = conv(1, 3, 8, (1, 2), 1, 1).initialise(seeded())
    judge = discriminator(1, 4, 1).initialise(seeded(1))
    aligned = regularizer("mcos+mdms", 3, 6, weight=0.1).initialise(seeded(2))
    images = torch.rand(2, 1, 8, 8, generator=seeded(3)) * 2 - 1
    features = torch.randn(2, 6, 4, 4, generator=seeded(4))
    weighted = objective(gan_start=0, perceptual=0)
    losses = TokenizerLosses(network, weighted, aligned, judge)

    def step() -> Tensor:
        found = losses.autoencoder_loss(images, features, 0, seeded(9))
        assert found.terms["gan_factor"] > 0
        assert found.terms["mcos+mdms_factor"] > 0
        found.total.backward()
        return torch.stack([found.total.detach(), *found.terms.values()])

    assert_equal_with_and_without(network, step)


def test_training_gives_the_same_weights_and_an_average_that_recomputes_nothing(
    tmp_path: Path,
) -> None:
    trained = []
    for again in (False, True):
        run = small_run(tmp_path / str(again), activation_checkpointing=again)
        training = Training(run)
        training.go()
        blocks = [m for m in run.modules["diffusion"].modules() if isinstance(m, Block)]
        assert {block.recomputed for block in blocks} == {again}
        averaged = [m for m in training.averaged.modules() if isinstance(m, Block)]
        assert {block.recomputed for block in averaged} == {False}
        trained.append(training.averaged.state_dict())
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


class Square(Block):
    """A block that keeps its input, and what silu is applied to and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.silu(self.first(x)))


def test_inputs_and_the_largest_block_are_counted_by_hand() -> None:
    stack = nn.Sequential(Square(), Square(), Square())
    images = torch.zeros(7, 10)

    def loss() -> Tensor:
        return stack(images).sum()

    assert kept(loss, [stack], "fp32") == 4 * 7 * 3 * (10 + 20 + 20)
    # the inputs of three blocks; of one block all, its input once more
    assert kept(loss, [stack], "fp32", stack) == 4 * 7 * (3 * 10 + (10 + 20 + 20))
    # the inputs are what torch keeps of blocks that it will compute again
    recompute_blocks(stack)
    assert kept(loss, [stack], "fp32") == 4 * 7 * 3 * 10


def test_a_deep_network_keeps_a_fraction() -> None:
    spec = {"arch": "sit", "width": 32, "depth": 6, "heads": 4, "train": {"steps": 1}}
    plain, again = (backbone_step(spec, (2, 8, 8), 3, "fp32", r)[1] for r in (False, True))
    assert again < 0.35 * plain
    # 6 inputs of 64 tokens, beside a block's own
    assert again > 4 * 6 * 64 * 32
    network = {"arch": "conv", "factor": 2, "channels": 3, "width": 8, "multipliers": [1, 1]}
    options = ObjectiveSpec(kl=0.0).canonical()
    plain, again = (
        tokenizer_step(network, options, None, 3, 32, "fp32", r)[1] for r in (False, True)
    )
    assert again < 0.5 * plain


def smoke(**over: Any) -> Plan:
    return Plan(load_study(REPOSITORY / "studies" / "smoke.yaml", over))


@pytest.mark.usefixtures("workplace")
def test_a_plan_counts_it_and_renames_nothing() -> None:
    deep = {"sit-a": {"depth": 12, "train": {"batch": 1024}}}
    again = {"sit-a": {"depth": 12, "train": {"batch": 1024, "activation_checkpointing": True}}}
    plain, recomputed = smoke(backbones=deep), smoke(backbones=again)
    assert [a.fingerprint for a in plain] == [a.fingerprint for a in recomputed]
    models = [
        next(a for a in plan.of_stage("diffusion") if a.labels["backbone"] == "sit-a")
        for plan in (plain, recomputed)
    ]
    first, second = (
        memory_of(plan.study, model)
        for plan, model in zip((plain, recomputed), models, strict=True)
    )
    assert first is not None
    assert second is not None
    assert second.bytes() < first.bytes()
    assert second.kept.image < 0.2 * first.kept.image
    counted = second.kept.fixed + second.images * second.kept.image
    assert second.bytes() == second.weights + CONTEXT + round(PASSING_RECOMPUTED * counted)
    works = [
        Costs(plan.study).work(model)
        for plan, model in zip((plain, recomputed), models, strict=True)
    ]
    assert works[1].macs == pytest.approx(4 / 3 * works[0].macs)
    text = plan_table(recomputed)
    assert "training step on a GPU" in text


@pytest.mark.usefixtures("workplace")
def test_what_does_not_fit_is_told_of_it() -> None:
    big = {"width": 1024, "depth": 24, "heads": 16, "train": {"batch": 512}}
    with pytest.raises(StudyError, match=r"activation_checkpointing: true keeps less"):
        check_memory(smoke(backbones={"sit-a": big}, gpu_memory=24))
    big["train"]["activation_checkpointing"] = True  # type: ignore[index]
    check_memory(smoke(backbones={"sit-a": big}, gpu_memory=24))


def test_networks_without_blocks_are_refused() -> None:
    with pytest.raises(StudyError, match=r"Linear has no blocks to compute again; set it to false"):
        recompute_blocks(nn.Linear(2, 2))
    again = {"activation_checkpointing": True}
    vector = {"arch": "vector", "factor": 4, "channels": 2, "width": 8, "multipliers": [1, 1]}
    with pytest.raises(StudyError, match=r"vector has no blocks to compute again"):
        smoke(
            bases={"lines": {"network": vector, "train": {"steps": 1, "batch": 8, **again}}},
            tokenizers={"lines": {"base": "lines", "method": "baseline"}},
        )
    with pytest.raises(StudyError, match=r"a convnet has no blocks to compute again"):
        smoke(
            encoders={"small": {"kind": "supervised", "train": {"steps": 1, **again}}},
        )
