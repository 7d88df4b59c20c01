"""Solvers against the closed-form Gaussian flow; noise and labels by index."""

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from diffusability.diffusion.sampler import (
    balanced_labels,
    draw_noise,
    function_evaluations,
    integrate,
    time_grid,
)
from diffusability.errors import MeasurementError, StudyError
from diffusability.study.entries.sampling import SamplingSpec
from tests.oracles.gaussian_flow import GaussianFlow


def gaussian() -> GaussianFlow:
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    variance = torch.linspace(0.1, 3, 12, dtype=torch.float64).view(3, 2, 2)
    return GaussianFlow(mean, variance)


def noise(n: int = 8) -> torch.Tensor:
    return draw_noise(0, range(n), (3, 2, 2)).double()


# --- the oracle ------------------------------------------------------------------------------


def test_gaussian_velocity_is_the_regression_of_the_true_velocity():
    # one dimension: E[x1 - x0 | x_t] is linear, with slope cov(x1 - x0, x_t) / var(x_t)
    mean, variance, t = 0.7, 0.3, 0.6
    flow = GaussianFlow(torch.tensor([mean]).double(), torch.tensor([variance]).double())
    slope = (t * variance - (1 - t)) / ((1 - t) ** 2 + t**2 * variance)
    x = torch.tensor([[2.0]], dtype=torch.float64)
    assert flow.velocity(x, t).item() == pytest.approx(mean + slope * (2 - t * mean), abs=1e-7)


def test_gaussian_velocity_is_the_derivative_of_its_flow_map():
    flow, start, h = gaussian(), noise(), 1e-5
    assert torch.equal(flow.flow_map(start, 0.0), start)
    for t in (0.1, 0.5, 0.9):
        slope = (flow.flow_map(start, t + h) - flow.flow_map(start, t - h)) / (2 * h)
        assert torch.allclose(flow.velocity(flow.flow_map(start, t), t), slope, atol=1e-8)
    end = flow.mean + flow.variance.sqrt() * start
    assert torch.allclose(flow.flow_map(start, 1.0), end)


def test_a_degenerate_gaussian_is_refused():
    with pytest.raises(MeasurementError, match="variance"):
        GaussianFlow(torch.zeros(2), torch.tensor([1.0, 0.0]))


# --- solvers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("shift", [1.0, 0.5])
def test_solvers_converge_at_their_order(solver, order, shift):
    flow, start = gaussian(), noise()
    exact = flow.flow_map(start, 1.0)
    errors = [
        (integrate(flow.velocity, start, n, solver, shift) - exact).norm().item()
        for n in (40, 80, 160)
    ]
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert rates == pytest.approx([order, order], abs=0.15)
    assert errors[-1] < 0.2**order


@pytest.mark.parametrize(("solver", "steps", "spent"), [("euler", 50, 50), ("heun", 25, 49)])
def test_evaluations_are_exactly_those_stated(solver, steps, spent):
    times = []

    def counted(x, t):
        times.append(t)
        return torch.zeros_like(x)

    integrate(counted, noise(2), steps, solver)
    assert len(times) == spent == function_evaluations(solver, steps)
    assert SamplingSpec(solver=solver, evaluations=spent).steps == steps
    assert times[0] == 0
    assert max(times) == pytest.approx(1 - 1 / steps)


def test_euler_on_a_constant_velocity_arrives_exactly_after_unit_time():
    target = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)
    for shift in (1.0, 0.3):
        out = integrate(lambda x, t: target, torch.zeros_like(target), 7, shift=shift)
        assert out.item() == pytest.approx(3, abs=1e-12)


def test_steps_are_reported_as_they_are_taken():
    flow, seen = gaussian(), []
    start = noise(2)
    end = integrate(flow.velocity, start, 5, on_step=lambda i, a, b: seen.append((i, a, b)))
    assert [i for i, _, _ in seen] == [0, 1, 2, 3, 4]
    assert torch.equal(seen[0][1], start)
    assert torch.equal(seen[-1][2], end)
    for (_, _, after), (_, before, _) in pairwise(seen):
        assert torch.equal(after, before)
    for i, a, b in seen:
        assert torch.allclose(b, a + 0.2 * flow.velocity(a, i / 5))


def test_time_grid_and_its_shift():
    assert time_grid(4) == [0, 0.25, 0.5, 0.75, 1]
    shifted = time_grid(4, 0.3)
    assert shifted[2] == pytest.approx(0.3 * 0.5 / (1 - 0.7 * 0.5))
    assert (shifted[0], shifted[-1]) == (0, pytest.approx(1))
    assert all(a < b for a, b in zip(time_grid(4, 0.3)[1:-1], [0.25, 0.5, 0.75], strict=True))


def test_solvers_and_counts_that_do_not_exist_are_refused():
    flow = gaussian()
    with pytest.raises(StudyError, match="dopri5"):
        integrate(flow.velocity, noise(), 5, "dopri5")
    with pytest.raises(StudyError, match="0 steps"):
        integrate(flow.velocity, noise(), 0)
    with pytest.raises(ValidationError, match="odd"):
        SamplingSpec(solver="heun", evaluations=50)
    with pytest.raises(StudyError, match="shift"):
        time_grid(5, 0.0)


# --- noise and labels ------------------------------------------------------------------------


def test_noise_depends_on_seed_and_index_only():
    whole = draw_noise(5, range(10), (3, 4))
    assert whole.dtype == torch.float32
    assert torch.equal(torch.cat([draw_noise(5, [i], (3, 4)) for i in range(10)]), whole)
    assert torch.equal(draw_noise(5, [7, 2], (3, 4)), whole[[7, 2]])
    torch.rand(3)
    assert torch.equal(draw_noise(5, range(10), (3, 4)), whole)


def test_noise_of_different_keys_is_independent_and_standard_normal():
    rows = draw_noise(0, range(400), (500,)).double()
    assert rows.mean().item() == pytest.approx(0, abs=4 / math.sqrt(rows.numel()))
    assert rows.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / rows.numel()))
    assert (rows**4).mean().item() == pytest.approx(3, abs=4 * math.sqrt(96 / rows.numel()))
    others = torch.cat((rows[:60], draw_noise(1, range(60), (500,)).double()))
    correlation = torch.corrcoef(others) - torch.eye(120)
    assert correlation.abs().max().item() < 6 / math.sqrt(500)
    assert not torch.equal(draw_noise(2, [3], (4,)), draw_noise(3, [2], (4,)))


def test_labels_are_balanced_over_consecutive_indices():
    labels = balanced_labels(range(6, 36), 10)
    assert labels.dtype == torch.int64
    assert torch.bincount(labels).tolist() == [3] * 10
    assert balanced_labels([25, 4], 10).tolist() == [5, 4]
