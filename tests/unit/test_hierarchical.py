"""The hierarchical VAE: divergences in closed form and by sampling, and its levels."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffusability.errors import StudyError
from diffusability.tokenizers.hierarchical import (
    HierarchicalAutoencoder,
    balanced_kl,
    gaussian_kl,
    hierarchical_loss,
)
from diffusability.tokenizers.posterior import Posterior
from tests.unit.fisher_examples import normal
from tests.unit.networks import hierarchical
from tests.unit.networks import objective as weighted

LEVELS = (1, 2, 4)


def network(factor: int = 1) -> HierarchicalAutoencoder:
    """Small levels of 8-pixel images, in double precision, away from the prior."""
    built = hierarchical(LEVELS, factor)
    return built.initialise(torch.Generator().manual_seed(0)).double().eval()


def gaussian(posterior: Posterior) -> Normal:
    return Normal(posterior.mean, (0.5 * posterior.logvar).exp())


def test_divergence_of_two_gaussians() -> None:
    q, p = (Posterior(normal(3, 2, 4, 4, seed=s), normal(3, 2, 4, 4, seed=s + 5)) for s in (0, 1))
    expected = kl_divergence(gaussian(q), gaussian(p)).sum((1, 2, 3))
    torch.testing.assert_close(gaussian_kl(q, p), expected)
    assert gaussian_kl(q, q).tolist() == [0.0, 0.0, 0.0]
    standard = Posterior(torch.zeros_like(q.mean), torch.zeros_like(q.mean))
    torch.testing.assert_close(gaussian_kl(q, standard), q.kl())


@torch.no_grad()
def test_levels_add_up_to_the_divergence_of_all_latents() -> None:
    tokenizer, draws = network(), 400
    image = normal(1, 1, 8, 8).tanh()
    many = image.expand(draws, -1, -1, -1)
    _, divergences = tokenizer.reconstruct(many, torch.Generator().manual_seed(1))
    closed = torch.stack(list(divergences.values())).sum(0)  # (draws,)
    # log q(z | x) - log p(z) of other draws, level by level
    features = tokenizer._features(many)
    state, factor = tokenizer._start(features[4]), 4
    generator = torch.Generator().manual_seed(2)
    ratio = torch.zeros(draws, dtype=torch.float64)
    while factor:
        prior = tokenizer._prior(state, factor)
        posterior = tokenizer._posterior(state, features, prior, factor)
        z = posterior.sample(generator)
        ratio += (gaussian(posterior).log_prob(z) - gaussian(prior).log_prob(z)).sum((1, 2, 3))
        state, factor = tokenizer._descend(tokenizer._absorb(state, z, factor), factor)
    stderr = ((closed.var() + ratio.var()) / draws).sqrt()
    assert list(divergences) == [4, 2, 1]
    assert float(closed.mean()) > 10 * float(stderr)
    assert float((closed.mean() - ratio.mean()).abs()) < 4 * float(stderr)


@torch.no_grad()
def test_levels_are_views_of_one_network() -> None:
    whole = network()
    image = normal(2, 1, 8, 8).tanh()
    for factor in LEVELS:
        level = hierarchical(LEVELS, factor)
        level.load_state_dict(whole.state_dict(), assign=True)
        posterior = level.encode(image)
        side = 8 // factor
        assert posterior.mean.shape == posterior.logvar.shape == (2, 2, side, side)
        assert level.decode(posterior.mean).shape == image.shape
        # a level matters to the image that is decoded from it
        assert not torch.allclose(level.decode(posterior.mean), level.decode(0 * posterior.mean))
        # the means of the coarser levels by hand
        features = whole._features(image)
        state, at = whole._start(features[4]), 4
        while at > factor:
            coarser = whole._posterior(state, features, whole._prior(state, at), at)
            state, at = whole._descend(whole._absorb(state, coarser.mean, at), at)
        by_hand = whole._posterior(state, features, whole._prior(state, factor), factor)
        torch.testing.assert_close(posterior.mean, by_hand.mean)


@torch.no_grad()
def test_the_mean_of_the_prior_decodes_as_the_prior() -> None:
    # the coarsest level at its prior's mean, zero, is what finer levels assume of it
    coarse, fine = network(4), network(2)
    state, at = coarse._start(torch.zeros(1, 8, 2, 2, dtype=torch.float64)), 4
    state, at = coarse._descend(coarse._absorb(state, coarse._prior(state, 4).mean, 4), at)
    mean = fine._prior(state, 2).mean
    zero = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(fine.decode(mean), coarse.decode(zero))


def test_loss_is_the_evidence_bound_and_its_warm_up() -> None:
    tokenizer, image = network(), normal(3, 1, 8, 8).tanh()

    def loss(step: int) -> tuple[float, dict[str, float]]:
        objective = weighted(l1=0, mse=1, perceptual=0, gan=0, kl=0.5, kl_warmup=4)
        generator = torch.Generator().manual_seed(1)
        losses = hierarchical_loss(tokenizer, objective, image, step, generator)
        return losses.total.item(), {name: term.item() for name, term in losses.terms.items()}

    total, terms = loss(0)
    decoded, divergences = tokenizer.reconstruct(image, torch.Generator().manual_seed(1))
    error = (decoded - image).square().sum() / 3
    kl = sum(float(part.detach().mean()) for part in divergences.values())
    assert terms["mse"] == pytest.approx(error.item())
    assert terms["kl"] == pytest.approx(kl)
    assert sum(terms[f"kl_f{factor}"] for factor in LEVELS) == pytest.approx(kl)
    assert total == pytest.approx(terms["mse"] + 0.5 * kl / 4)
    assert loss(9)[0] == pytest.approx(terms["mse"] + 0.5 * kl)


def test_balanced_divergence_by_hand() -> None:
    held = {
        4: torch.tensor([0.99, 2.99]),
        2: torch.tensor([0.0, 0.0]),
        1: torch.tensor([8.0, 7.98]),
    }
    leaves = {factor: kl.double().requires_grad_() for factor, kl in held.items()}
    total = balanced_kl(leaves, {4: 4, 2: 16, 1: 64})
    shares = torch.tensor([2.0 / 4, 0.01 / 16, 8.0 / 64], dtype=torch.float64)
    weights = shares * 3 / shares.sum()
    torch.testing.assert_close(total[0], weights[0] * 0.99 + weights[2] * 8.0, rtol=1e-6, atol=0)
    total.sum().backward()  # the weights are constants: each level's gradient is its weight
    for kl, weight in zip(leaves.values(), weights, strict=True):
        torch.testing.assert_close(kl.grad, weight.expand(2), rtol=1e-6, atol=0)
    # one nat a cell everywhere: nothing to balance but the floor
    even = {factor: torch.tensor([100.0 * cells]) for factor, cells in ((2, 16), (1, 64))}
    torch.testing.assert_close(
        balanced_kl(even, {2: 16, 1: 64}), torch.tensor([8000.0]), rtol=1e-5, atol=0
    )


def test_balance_ends_with_the_warm_up() -> None:
    tokenizer, image = network(), normal(3, 1, 8, 8).tanh()

    def total(step: int, balance: bool) -> float:
        objective = weighted(
            l1=0, mse=1, perceptual=0, gan=0, kl=0.5, kl_warmup=4, kl_balance=balance
        )
        generator = torch.Generator().manual_seed(1)
        losses = hierarchical_loss(tokenizer, objective, image, step, generator)
        assert losses.terms["kl"].item() == pytest.approx(
            sum(losses.terms[f"kl_f{factor}"].item() for factor in LEVELS)
        )
        return losses.total.item()

    _, divergences = tokenizer.reconstruct(image, torch.Generator().manual_seed(1))
    plain = sum(float(kl.detach().mean()) for kl in divergences.values())
    balanced = float(balanced_kl(divergences, {4: 4, 2: 16, 1: 64}).detach().mean())
    moved = total(1, balance=True) - total(1, balance=False)
    assert moved == pytest.approx(0.5 * 2 / 4 * (balanced - plain))
    assert abs(moved) > 1e-3
    assert total(4, balance=True) == total(4, balance=False)


def test_what_it_refuses() -> None:
    with pytest.raises(StudyError, match="coarsest level's factor 4"):
        network().encode(torch.zeros(1, 1, 6, 6, dtype=torch.float64))
    with pytest.raises(StudyError, match="no coarsest level"):
        network().decode(torch.zeros(1, 2, 6, 6, dtype=torch.float64))
    with pytest.raises(StudyError, match="cannot be masked"):
        network().encode(torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool))
