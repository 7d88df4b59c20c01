"""Memory of a training step: by hand, against real tensors, and refused where it is too much."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from diffusability.errors import StudyError
from diffusability.execution.plan_table import plan_table
from diffusability.step_memory import backbone_step, kept, tokenizer_step
from diffusability.study.entries.operations import Kept
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight.memory import (
    CONTEXT,
    PASSING,
    StepMemory,
    check_memory,
    largest_steps,
)
from diffusability.study.preflight.memory import step_memory as memory_of
from diffusability.study.reading.load import load_study
from diffusability.tokenizers.build import build_tokenizer, tokenizer_network
from tests.conftest import REPOSITORY

CONV = {"arch": "conv", "factor": 2, "channels": 3, "width": 8, "multipliers": [1, 1]}
GB = 10**9


def smoke(**over: Any) -> Plan:
    return Plan(load_study(REPOSITORY / "studies" / "smoke.yaml", over))


def test_what_two_layers_keep_by_hand() -> None:
    first, second = nn.Linear(10, 20), nn.Linear(20, 5)
    images = torch.zeros(7, 10)

    def loss() -> torch.Tensor:
        return second(functional.silu(first(images))).sum()

    # the input, what silu is applied to, and its result; the weights are not counted
    assert kept(loss, [first, second], "fp32") == 4 * 7 * (10 + 20 + 20)
    # autocast keeps bfloat16 copies, also of the second weight, as its input needs a gradient
    half = kept(loss, [first, second], "bf16")
    assert half == 2 * (7 * (10 + 20 + 20) + 20 * 5)


def test_what_is_saved_twice_is_counted_once() -> None:
    weight = nn.Parameter(torch.ones(6))
    shared = torch.ones(6)
    assert kept(lambda: (weight * shared + (weight + 1) * shared).sum(), [], "fp32") == 4 * 6


def test_fake_tensors_count_what_real_ones_take() -> None:
    network = build_tokenizer(tokenizer_network(CONV), 3, 16)
    network.initialise(torch.Generator().manual_seed(0))
    plain = ObjectiveSpec(kl=0.0)

    def loss(images: int) -> torch.Tensor:
        posterior = network.encode(torch.zeros(images, 3, 16, 16))
        latents = posterior.sample(torch.Generator().manual_seed(0))
        difference = torch.zeros(images, 3, 16, 16) - network.decode(latents)
        return difference.abs().mean()

    one, two = (kept(lambda n=n: loss(n), [network], "fp32") for n in (1, 2))
    fixed, image = tokenizer_step(CONV, plain.canonical(), None, 3, 16, "fp32")
    assert image == pytest.approx(two - one, rel=0.02)  # the objective scales its terms
    assert abs(fixed) < 0.01 * image


def test_a_gan_and_a_perceptual_distance_keep_more() -> None:
    lpips = {"kind": "lpips"}
    plain, judged, compared = (
        tokenizer_step(CONV, ObjectiveSpec(**terms).canonical(), other, 3, 32, "fp32")[1]
        for terms, other in [
            ({}, None),
            ({"gan": 0.5, "gan_width": 16, "gan_layers": 2}, None),
            ({"perceptual": 1.0, "perceptual_encoder": "lpips"}, lpips),
        ]
    )
    # the discriminator's first layer keeps 16 channels of 16 x 16
    assert judged - plain > 4 * 16 * 16**2
    # the two first layers of VGG-16 keep 64 channels of 32 x 32
    assert compared - plain > 4 * 2 * 64 * 32**2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_keeps_no_matrix_of_all_pairs(precision: str) -> None:
    spec = {"arch": "sit", "width": 16, "depth": 1, "heads": 4, "train": {"steps": 1}}
    small, large = (backbone_step(spec, (2, side, side), 3, precision)[1] for side in (8, 32))
    assert large == pytest.approx(16 * small, rel=0.05)  # 16 times the tokens, 256 times the pairs


def test_bytes_and_remedies_by_hand() -> None:
    step = StepMemory(64, 64, 10 * GB, Kept(GB, GB), "accumulation")
    assert step.bytes() == 10 * GB + CONTEXT + round(PASSING * 65 * GB)
    assert step.fits(90 * GB)
    assert not step.fits(80 * GB)
    assert step.remedy(80 * GB).startswith("train.accumulation: 2 fits")
    assert step.remedy(32 * GB).startswith("train.accumulation: 4 fits")
    assert step.remedy(14 * GB) == "not even one image at a time fits"
    part = StepMemory(64, 64, 10 * GB, Kept(GB, GB), "part")
    assert part.remedy(32 * GB).startswith("train.part: 16 fits; it is part of")


def test_parameters_count_with_gradients_moments_and_average() -> None:
    plan = smoke()
    model = next(a for a in plan.of_stage("diffusion") if a.labels["backbone"] == "sit-a")
    found = memory_of(plan.study, model)
    assert found is not None
    from diffusability.study.entries.operations import backbone

    spec = plan.study.backbones["sit-a"]
    parameters = backbone(spec, 4, 4, 10).parameters
    assert found.weights == (4 + 4 + 8 + 4) * parameters
    assert (found.share, found.images) == (64, 64)
    cut = smoke(backbones={"sit-a": {"gpus": 2, "train": {"accumulation": 4}}})
    found = memory_of(cut.study, next(iter(cut.of_stage("diffusion"))))
    assert found is not None
    assert (found.share, found.images) == (32, 8)
    assert memory_of(plan.study, plan.of_stage("latents")[0]) is None


@pytest.mark.usefixtures("workplace")
def test_what_does_not_fit_is_refused_and_the_plan_says_what_fits() -> None:
    check_memory(smoke())
    text = plan_table(smoke())
    assert "training step on a GPU of 80 GB" in text
    assert "too much" not in text
    big = {"sit-a": {"width": 1024, "depth": 24, "heads": 16, "train": {"batch": 4096}}}
    plan = smoke(backbones=big, gpu_memory=24)
    with pytest.raises(StudyError, match=r"diffusion sit-a: .* 4096 images at a time needs \d+ GB"):
        check_memory(plan)
    (line,) = (line for line in plan_table(plan).splitlines() if "too much" in line)
    accumulation = int(line.partition("train.accumulation: ")[2].partition(" ")[0])
    fitting = merge_accumulation(big, accumulation)
    check_memory(smoke(backbones=fitting, gpu_memory=24))
    with pytest.raises(StudyError, match="too much|needs"):
        check_memory(smoke(backbones=merge_accumulation(big, accumulation // 2), gpu_memory=24))


def merge_accumulation(backbones: dict[str, Any], accumulation: int) -> dict[str, Any]:
    """Return the backbone with its batch cut into so many parts."""
    (entry,) = backbones.values()
    return {"sit-a": {**entry, "train": {**entry["train"], "accumulation": accumulation}}}


def test_memory_of_a_gpu_renames_nothing() -> None:
    names = [a.fingerprint for a in smoke()]
    assert names == [a.fingerprint for a in smoke(gpu_memory=24)]


@pytest.mark.release
def test_every_training_of_the_paper_fits_80_gb() -> None:
    plan = Plan(load_study(REPOSITORY / "studies" / "imagenet256.yaml"))
    check_memory(plan)
    steps = dict(largest_steps(plan))
    assert len(steps) == 3 + 4
    # the tokenizer's own activations, VGG-16's of the reconstruction and the discriminator's
    conv = steps["tokenizer conv-f16d32"].kept.image / 2**30
    assert conv == pytest.approx(1.581 + 0.089 + 0.023, rel=0.03)
