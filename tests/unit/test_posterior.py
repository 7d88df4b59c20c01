"""The Gaussian posterior: clamping, sampling and the closed form of its KL divergence."""

import math

import pytest
import torch

from diffusability.tokenizers.posterior import Posterior


def moments(seed: int = 0, shape: tuple[int, ...] = (3, 4, 2, 5)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_first_half_of_the_channels_is_the_mean():
    given = moments()
    posterior = Posterior.from_moments(given)
    assert torch.equal(posterior.mean, given[:, :2])
    assert torch.equal(posterior.logvar, given[:, 2:])


def test_log_variances_are_clamped():
    given = torch.tensor([0.0, 0.0, -50.0, 50.0]).view(1, 4, 1, 1)
    assert Posterior.from_moments(given).logvar.flatten().tolist() == [-30.0, 20.0]


def test_kl_of_the_prior_is_zero_and_of_a_shift_is_half_its_square():
    zeros = torch.zeros(2, 3, 4, 4)
    assert Posterior(zeros, zeros).kl().tolist() == [0.0, 0.0]
    assert Posterior(zeros + 2.0, zeros).kl().tolist() == [0.5 * 4.0 * 48] * 2


def test_kl_agrees_with_torch_distributions_per_image():
    posterior = Posterior.from_moments(moments())
    own = torch.distributions.Normal(posterior.mean, (0.5 * posterior.logvar).exp())
    prior = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    expected = torch.distributions.kl_divergence(own, prior).flatten(1).sum(1)
    torch.testing.assert_close(posterior.kl(), expected, rtol=1e-12, atol=0)


def test_samples_have_the_mean_and_the_variance():
    mean, logvar = torch.full((1, 1, 300, 300), 3.0), torch.full((1, 1, 300, 300), math.log(0.25))
    drawn = Posterior(mean, logvar).sample(torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(3.0, abs=5 * 0.5 / 300)
    assert drawn.std().item() == pytest.approx(0.5, rel=5 / 300)


def test_every_element_has_its_own_mean_and_variance():
    mean = torch.tensor([3.0, -1.0]).repeat(20_000, 1)[:, :, None, None]  # (N, 2, 1, 1)
    logvar = torch.tensor([0.25, 4.0]).log().expand(20_000, 2)[:, :, None, None]
    drawn = Posterior(mean, logvar).sample(torch.Generator().manual_seed(0)).flatten(1)
    assert drawn.mean(0).tolist() == pytest.approx([3.0, -1.0], abs=4 * 2 / 20_000**0.5)
    assert drawn.var(0).tolist() == pytest.approx([0.25, 4.0], rel=4 * (2 / 20_000) ** 0.5)
    again = Posterior(mean, logvar).sample(torch.Generator().manual_seed(0)).flatten(1)
    assert torch.equal(drawn, again)


def test_sampling_depends_on_the_generator_alone():
    posterior = Posterior.from_moments(moments())
    state = torch.get_rng_state()
    first, second, other = (posterior.sample(torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_gradients_reach_mean_and_log_variance():
    given = moments().requires_grad_()
    Posterior.from_moments(given).sample(torch.Generator().manual_seed(0)).sum().backward()
    assert torch.equal(given.grad[:, :2], torch.ones_like(given.grad[:, :2]))
    assert given.grad[:, 2:].abs().min() > 0


def test_half_precision_is_widened():
    posterior = Posterior.from_moments(moments().bfloat16())
    assert posterior.mean.dtype == posterior.kl().dtype == torch.float32
    assert Posterior.from_moments(moments()).kl().dtype == torch.float64
