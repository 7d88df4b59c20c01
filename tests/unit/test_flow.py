"""The linear path, its velocity, the draws of time and labels, and the loss."""

import math

import pytest
import torch
from torch import Tensor

from diffusability.diffusion.flow import (
    drop_labels,
    flow_matching_loss,
    interpolate,
    sample_time,
    velocity_target,
)
from diffusability.errors import StudyError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def test_path_runs_from_noise_to_data_at_its_velocity():
    x0, x1 = draw(3, 2, 4, 5, seed=1), draw(3, 2, 4, 5, seed=2)
    assert torch.equal(interpolate(x0, x1, torch.zeros(3)), x0)
    assert torch.equal(interpolate(x0, x1, torch.ones(3)), x1)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    h = 1e-3
    slope = (interpolate(x0, x1, t + h) - interpolate(x0, x1, t - h)) / (2 * h)
    assert torch.allclose(slope, velocity_target(x0, x1), atol=1e-10)
    assert torch.allclose(interpolate(x0, x1, t)[2], 0.9 * x1[2] + 0.1 * x0[2])


def test_uniform_time_has_the_moments_of_the_unit_interval():
    t = sample_time(200_000, "uniform", seeded())
    assert t.min() >= 0
    assert t.max() < 1
    assert t.mean().item() == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / 12 / 200_000))
    assert t.var().item() == pytest.approx(1 / 12, rel=0.01)


def test_logit_normal_time_is_the_sigmoid_of_a_standard_normal():
    t = sample_time(200_000, "logit-normal", seeded()).double()
    logit = torch.log(t / (1 - t))
    assert logit.mean().item() == pytest.approx(0, abs=4 / math.sqrt(200_000))
    assert logit.std().item() == pytest.approx(1, abs=0.01)
    assert (logit**4).mean().item() == pytest.approx(3, abs=0.1)
    # quartile of the normal, 0.6745, through the sigmoid
    assert t.quantile(0.75).item() == pytest.approx(1 / (1 + math.exp(-0.67449)), abs=0.003)


def test_time_depends_on_its_generator_alone():
    for distribution in ("uniform", "logit-normal"):
        first = sample_time(5, distribution, seeded(3))
        torch.rand(1)
        assert torch.equal(first, sample_time(5, distribution, seeded(3)))
    with pytest.raises(StudyError, match="cosine"):
        sample_time(5, "cosine", seeded())


def test_labels_are_dropped_to_the_null_class_at_the_stated_rate():
    y = torch.arange(100_000) % 7
    dropped = drop_labels(y, 0.1, 7, seeded())
    share = (dropped == 7).double().mean().item()
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 100_000))
    assert torch.equal(dropped[dropped != 7], y[dropped != 7])
    assert y.max() == 6  # the input is untouched
    assert torch.equal(drop_labels(y, 0.0, 7, seeded()), y)
    assert bool((drop_labels(y, 1.0, 7, seeded()) == 7).all())


def test_loss_vanishes_at_the_true_velocity_and_not_at_its_opposite():
    x0, x1 = draw(2, 3, 2, 2, seed=1), draw(2, 3, 2, 2, seed=2)
    t, y = torch.full((2,), 0.3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    right = flow_matching_loss(lambda *_: x1 - x0, x1, y, x0, t, 1.0)
    assert right["mse"].item() == 0
    assert right["total"].item() == pytest.approx(0, abs=1e-12)
    wrong = flow_matching_loss(lambda *_: x0 - x1, x1, y, x0, t, 1.0)
    assert wrong["mse"].item() == pytest.approx((4 * (x1 - x0) ** 2).mean().item())
    assert wrong["cosine"].item() == pytest.approx(2)


def test_network_sees_the_point_the_time_and_the_label():
    x0, x1 = draw(2, 1, 2, 2, seed=1), draw(2, 1, 2, 2, seed=2)
    t, y = torch.tensor([0.25, 0.75], dtype=torch.float64), torch.tensor([4, 9])
    seen = []

    def spy(x, time, labels):
        seen.extend((x, time, labels))
        return torch.zeros_like(x)

    terms = flow_matching_loss(spy, x1, y, x0, t)
    assert torch.equal(seen[0], interpolate(x0, x1, t))
    assert torch.equal(seen[1], t)
    assert torch.equal(seen[2], y)
    assert set(terms) == {"mse", "total"}
    assert terms["total"].item() == pytest.approx(((x1 - x0) ** 2).mean().item())


def test_cosine_term_by_hand():
    # two channels, one row of two positions: angles of 90 and 30 degrees along the channels
    target = torch.tensor([[[[1.0, 2.0]], [[0.0, 0.0]]]], dtype=torch.float64)  # (1, 2, 1, 2)
    angle = math.radians(30)
    prediction = torch.tensor([[[[0.0, math.cos(angle)]], [[3.0, math.sin(angle)]]]]).double()
    zero, y, t = torch.zeros_like(target), torch.zeros(1).long(), torch.ones(1)
    terms = flow_matching_loss(lambda *_: prediction, target, y, zero, t, 0.5)
    assert terms["cosine"].item() == pytest.approx(1 - math.cos(angle) / 2, abs=1e-7)
    mse = (1 + 9 + (2 - math.cos(angle)) ** 2 + math.sin(angle) ** 2) / 4
    assert terms["mse"].item() == pytest.approx(mse, abs=1e-7)
    assert terms["total"].item() == pytest.approx(mse + 0.5 * (1 - math.cos(angle) / 2), abs=1e-7)


def test_loss_is_taken_in_the_precision_of_the_data():
    x0, x1 = draw(2, 3, 2, 2, seed=1).float(), draw(2, 3, 2, 2, seed=2).float()
    rough = (x1 - x0).bfloat16()
    y, t = torch.zeros(2).long(), torch.full((2,), 0.5)
    terms = flow_matching_loss(lambda *_: rough, x1, y, x0, t, 1.0)
    assert terms["total"].dtype == torch.float32
    exact = (rough.double() - (x1 - x0).double()).square().mean().item()
    assert terms["mse"].item() == pytest.approx(exact, rel=1e-5)
