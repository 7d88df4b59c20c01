"""EDM's sampler: levels, order, exact cost, fresh noise and guidance, on known distributions."""

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from diffusability.diffusion.edm_sampler import Churn, integrate_denoiser, sigma_grid
from diffusability.diffusion.guidance import guided_denoiser, guided_velocity
from diffusability.diffusion.sampler import draw_noise, function_evaluations
from diffusability.errors import StudyError
from diffusability.study.entries.sampling import EDMSampling, SamplingSpec


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_denoiser(spread: Tensor):
    """The posterior mean of N(0, diag spread)."""
    return lambda y, sigma: y * spread / (spread + sigma**2)


@pytest.mark.parametrize("steps", [2, 18, 40])
def test_sampler_grid(steps: int) -> None:
    grid = sigma_grid(steps, EDMSampling())
    assert len(grid) == steps + 1
    assert (float(grid[0]), float(grid[-2]), float(grid[-1])) == (80.0, 0.002, 0.0)
    roots = grid[:-1] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(steps - 1), rtol=1e-9, atol=0)


def test_levels_that_cannot_be() -> None:
    with pytest.raises(StudyError, match="EDM's levels need at least two steps"):
        sigma_grid(1, EDMSampling())
    with pytest.raises(ValidationError, match="sigma_min 90.0 is not below sigma_max"):
        EDMSampling(sigma_min=90.0)


@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("euler", 1)])
def test_solvers_converge_to_the_flow_of_a_gaussian(solver: str, order: int) -> None:
    # y(sigma) = y0 sqrt(lam + sigma^2) / sqrt(lam + sigma0^2), and the error falls by 2^order
    spread = torch.tensor([1.0, 0.04], dtype=torch.float64)
    noise = normal(50, 2)
    exact = 80 * noise * (spread / (spread + 80**2)).sqrt()
    errors = []
    for steps in (40, 80, 160):
        found = integrate_denoiser(
            exact_denoiser(spread), noise, sigma_grid(steps, EDMSampling()), solver
        )
        errors.append(float((found - exact).abs().max()))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("solver", ["heun", "euler"])
@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_cost_is_stated_exactly(solver: str, churn: float) -> None:
    seen: list[float] = []

    def counted(y: Tensor, sigma: float) -> Tensor:
        seen.append(sigma)
        return y / (1 + sigma**2)

    fresh = Churn(lambda i: normal(3, 2, seed=i), EDMSampling(churn=churn))
    for steps in (2, 5, 18):
        seen.clear()
        integrate_denoiser(counted, normal(3, 2), sigma_grid(steps, EDMSampling()), solver, fresh)
        assert len(seen) == function_evaluations(solver, steps)
        assert SamplingSpec(solver=solver, evaluations=len(seen)).steps == steps
        assert min(seen) >= 0.002  # never at level 0, which no network knows
    assert function_evaluations("heun", 18) == 35
    assert function_evaluations("heun", 40) == 79


def test_unknown_solver_is_refused() -> None:
    with pytest.raises(StudyError, match="'rk4' is unknown"):
        integrate_denoiser(lambda y, _: y, normal(1, 2), sigma_grid(3, EDMSampling()), "rk4")  # type: ignore[arg-type]


def test_fresh_noise_keeps_the_distribution() -> None:
    spread = torch.tensor([1.0, 0.25], dtype=torch.float64)
    churn = Churn(lambda i: normal(20_000, 2, seed=10 + i), EDMSampling(churn=20.0))
    start, grid = normal(20_000, 2), sigma_grid(160, EDMSampling())
    drawn = integrate_denoiser(exact_denoiser(spread), start, grid, churn=churn)
    torch.testing.assert_close(drawn.var(0), spread, rtol=0.03, atol=0)
    plain = integrate_denoiser(exact_denoiser(spread), start, grid)
    assert float((drawn - plain).abs().mean()) > 0.1


def test_fresh_noise_is_multiplied_by_its_factor() -> None:
    def drawn(factor: float) -> Tensor:
        options = EDMSampling(churn=20.0, churn_noise=factor)
        churn = Churn(lambda i: normal(50, 2, seed=10 + i), options)
        start = torch.zeros(50, 2, dtype=torch.float64)
        return integrate_denoiser(lambda y, _: y, start, sigma_grid(5, EDMSampling()), churn=churn)

    assert drawn(1.0).std() > 0.1  # a denoiser that returns its input adds nothing else
    torch.testing.assert_close(drawn(0.5), 0.5 * drawn(1.0))


def test_fresh_noise_stays_in_its_range() -> None:
    churn = Churn(lambda i: torch.zeros(1), EDMSampling(churn=40, churn_min=0.05, churn_max=50))
    assert churn.raised(60, 40) == 60
    assert churn.raised(0.04, 40) == 0.04
    assert churn.raised(1.0, 40) == pytest.approx(math.sqrt(2))  # at most
    assert churn.raised(1.0, 400) == pytest.approx(1.1)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    def sample(indices: list[int]) -> Tensor:
        def draw(seed: int) -> Tensor:
            return draw_noise(seed, indices, (2, 3)).double()

        churn = Churn(lambda i: draw(100 + i), EDMSampling(churn=5.0))
        denoise = exact_denoiser(torch.tensor(0.3, dtype=torch.float64))
        return integrate_denoiser(denoise, draw(7), sigma_grid(6, EDMSampling()), churn=churn)

    whole = sample([0, 1, 2, 3, 4])
    assert torch.equal(torch.cat((sample([0, 1]), sample([2, 3, 4]))), whole)
    assert torch.equal(sample([3]), whole[3:4])
    assert not torch.equal(whole[0], whole[1])


class TestGuidance:
    @staticmethod
    def denoise(y: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """One Gaussian per class; the null class 9 is a wide one."""
        mean = torch.where(labels == 9, 0.0, labels.double())[:, None]
        spread = torch.where(labels == 9, 4.0, 1.0).double()[:, None]
        return mean + (y - mean) * spread / (spread + sigma[:, None] ** 2)

    def velocity(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The same on the linear path: u = (D(x / t; (1 - t) / t) - x) / (1 - t)."""
        there = t[:, None]
        return (self.denoise(x / there, (1 - t) / t, labels) - x) / (1 - there)

    @pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
    def test_it_is_the_guidance_of_the_velocity(self, scale: float) -> None:
        x, labels, t = normal(4, 2), torch.tensor([1, 2, 3, 1]), 0.3
        guided = guided_denoiser(self.denoise, labels, 9, scale)(x / t, (1 - t) / t)
        expected = guided_velocity(self.velocity, labels, 9, scale)(x, t)
        torch.testing.assert_close((guided - x) / (1 - t), expected, rtol=1e-12, atol=1e-12)

    def test_at_scale_one_the_network_is_called_once_and_only_with_labels(self) -> None:
        calls = []

        def spy(y: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
            calls.append(labels.tolist())
            return y

        labels = torch.tensor([1, 2])
        guided_denoiser(spy, labels, 9)(normal(2, 2), 70.0)
        assert calls == [[1, 2]]
        guided_denoiser(spy, labels, 9, 2.0)(normal(2, 2), 70.0)
        assert calls[1:] == [[1, 2, 9, 9]]

    def test_negative_scale_is_refused(self) -> None:
        with pytest.raises(StudyError, match="scale -1 is negative"):
            guided_denoiser(self.denoise, torch.tensor([1]), 9, -1)
