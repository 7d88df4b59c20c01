"""EDM and DDPM: preconditioning, noise levels of training, and schedules."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffusability.diffusion.edm import (
    PreconditionedDenoiser,
    denoising_loss,
    training_sigma,
)
from diffusability.fisher.gaussian import Gaussian
from diffusability.fisher.toy_networks import linear_alpha_bars
from diffusability.study.entries.backbone import EDMTraining


class Nothing(nn.Module):
    def forward(self, y: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        return torch.zeros_like(y)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_without_a_network_it_denoises_a_normal_exactly(sigma_data: float) -> None:
    model = PreconditionedDenoiser(Nothing(), sigma_data)
    exact = Gaussian(torch.zeros(3), sigma_data**2 * torch.eye(3))
    y = normal(5, 3)
    for sigma in (0.01, 1.0, 30.0):
        seen = model(y, torch.full((5,), sigma, dtype=torch.float64))
        torch.testing.assert_close(seen, exact.denoise(y, sigma**2), rtol=1e-12, atol=1e-14)


def test_preconditioning_gives_the_network_unit_input_and_unit_target() -> None:
    class Spy(nn.Module):
        def forward(self, y: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
            self.seen, self.noise = y, noise
            return torch.zeros_like(y)

    spy = Spy()
    x, z = 0.5 * normal(20_000, 2), normal(20_000, 2, seed=1)
    for sigma in (0.05, 0.5, 5.0):
        level = torch.full((20_000,), sigma, dtype=torch.float64)
        # F = 0 leaves its target's square as the loss, which EDM's weight makes 1
        loss = denoising_loss(PreconditionedDenoiser(spy, 0.5), x, level, z, 0.5)
        assert float(loss) == pytest.approx(1, rel=0.03)
        assert float(spy.seen.std()) == pytest.approx(1, rel=0.02)
        torch.testing.assert_close(spy.noise, level.log() / 4)


def test_training_levels() -> None:
    sigma = training_sigma(100_000, torch.Generator().manual_seed(0), EDMTraining()).log()
    assert float(sigma.mean()) == pytest.approx(-1.2, abs=0.02)
    assert float(sigma.std()) == pytest.approx(1.2, abs=0.02)


def test_ddpm_grid() -> None:
    v = 1 / linear_alpha_bars(50) - 1
    assert float(v[0]) == pytest.approx(1.0001e-4, rel=1e-5)
    assert float(v[49]) == pytest.approx(0.6585, abs=5e-5)
    steps = linear_alpha_bars(3, low=0.1, high=0.3)
    assert steps.tolist() == pytest.approx([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])
    assert math.isclose(1 / float(linear_alpha_bars(1000)[-1]) - 1, 2.5e4, rel_tol=0.02)
