"""The nine regularizers: values by hand, draws, seeding."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from diffusability.errors import StudyError, TrainingError
from diffusability.study.entries.regularizer import REGULARIZERS
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.tokenizers.build import build_regularizer
from diffusability.tokenizers.posterior import Posterior
from diffusability.tokenizers.regularizers.alignment import (
    cosine_matrix,
    latent_features,
    marginal_cosine,
    marginal_distance,
)
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer
from diffusability.tokenizers.regularizers.lcr import local_correlation
from diffusability.tokenizers.regularizers.masking import random_positions
from diffusability.tokenizers.training_step import TokenizerLosses
from tests.unit.networks import objective, regularizer, vit

PLAIN = {"baseline", "gpe"}  # methods without a regularizer in the training step
NAMED = {"python"}  # its code is the user's: test_python_object.py


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def single(made: Regularizer, latents: torch.Tensor, features=None) -> Penalty:
    posterior = Posterior(latents, torch.zeros_like(latents))
    (penalty,) = made.penalties(posterior, latents, features)
    return penalty


# the baseline


def test_the_baseline_does_nothing():
    baseline = regularizer().initialise(seeded())
    images, latents = normal(2, 1, 8, 8), normal(2, 3, 4, 4)
    choice = baseline.draw((4, 4), 2, seeded())
    assert baseline.prepare_images(images, choice) is images
    assert baseline.encoder_mask(images, choice) is None
    assert baseline.transform(latents, images, choice) == (latents, images)
    assert baseline.penalties(Posterior(latents, latents), latents, None) == []
    assert list(baseline.parameters()) == []


# mcos, mdms, repa


def test_mcos_by_hand():
    # cosines 1, 0, -1 and 0.6: margins leave 0, 0.5, 1.5 and 0
    projected = torch.tensor([[2.0, 0], [0, 3], [-1, 0], [3, 4]]).T.reshape(1, 2, 2, 2)
    features = torch.tensor([[1.0, 0], [5, 0], [4, 0], [1, 0]]).T.reshape(1, 2, 2, 2)
    assert marginal_cosine(projected, features, 0.5).item() == pytest.approx(2.0 / 4)
    assert marginal_cosine(projected, features, 0.0).item() == pytest.approx((1 + 2 + 0.4) / 4)


def test_mdms_by_hand():
    projected = torch.tensor([[1.0, 0], [0, 2]]).T.reshape(1, 2, 1, 2)  # cosine 0
    features = torch.tensor([[1.0, 0], [3, 4]]).T.reshape(1, 2, 1, 2)  # cosine 0.6
    # four pairs: the diagonal agrees, both others differ by 0.6
    assert marginal_distance(projected, features, 0.25).item() == pytest.approx(2 * 0.35 / 4)
    assert marginal_distance(projected, features, 0.0).item() == pytest.approx(2 * 0.6 / 4)
    assert marginal_distance(features, projected, 0.0).item() == pytest.approx(2 * 0.6 / 4)


def test_cosine_matrices_stay_inside_an_image():
    grid = normal(3, 4, 2, 5)
    found = cosine_matrix(grid)
    assert found.shape == (3, 10, 10)
    one, two = grid[1, :, 0, 3], grid[1, :, 1, 2]
    torch.testing.assert_close(found[1, 3, 7], one @ two / one.norm() / two.norm())


def test_vision_alignment_adds_its_losses_under_one_projection():
    latents, features = normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1)
    made = regularizer("mcos+mdms", 3, 5, cosine_margin=0.1, distance_margin=0.2)
    made.initialise(seeded()).double()
    assert [tuple(p.shape) for p in made.parameters()] == [(5, 3, 1, 1)]  # no bias
    penalty = single(made, latents, features)
    projected = torch.einsum("dc,bchw->bdhw", made.projection.weight[..., 0, 0], latents)
    expected = marginal_cosine(projected, features, 0.1)
    expected = expected + marginal_distance(projected, features, 0.2)
    torch.testing.assert_close(penalty.loss, expected)
    assert (penalty.name, penalty.weight, penalty.adaptive) == ("mcos+mdms", 0.1, True)
    assert penalty.maximum == 1e8


@pytest.mark.parametrize("name", ["mcos", "mdms"])
def test_each_alignment_loss_stands_alone(name):
    made = regularizer(name, 3, 5).initialise(seeded()).double()
    penalty = single(made, normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1))
    assert penalty.name == name
    assert list(penalty.parts) == [name]
    torch.testing.assert_close(penalty.loss, penalty.parts[name])


def test_repa_equals_a_loop():
    made = regularizer("repa", 3, 5, hidden=7).initialise(seeded()).double()
    latents, features = normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1)
    layers = [layer for layer in made.projection if hasattr(layer, "weight")]
    assert [tuple(layer.weight.shape) for layer in layers] == [(7, 3), (7, 7), (5, 7)]
    cosines = []
    for image in range(2):
        for row in range(2):
            for column in range(2):
                x = latents[image, :, row, column]
                for layer in layers[:-1]:
                    x = layer.weight @ x + layer.bias
                    x = x * torch.sigmoid(x)
                x = layers[-1].weight @ x + layers[-1].bias
                f = features[image, :, row, column]
                cosines.append(x @ f / x.norm() / f.norm())
    penalty = single(made, latents, features)
    torch.testing.assert_close(penalty.loss, 1 - torch.stack(cosines).mean())
    assert (penalty.name, penalty.weight, penalty.adaptive) == ("repa", 0.1, True)


def test_features_are_resized_to_the_latent_grid_and_detached():
    features = normal(2, 5, 4, 4).requires_grad_()
    found = latent_features(features, normal(2, 3, 2, 2), "repa")
    pooled = functional.avg_pool2d(features, 2)  # bilinear halving is the mean of 2x2
    torch.testing.assert_close(found, pooled.detach())
    assert not found.requires_grad
    assert torch.equal(latent_features(features, normal(2, 3, 4, 4), "repa"), features.detach())
    with pytest.raises(TrainingError, match="repa: features of 2 images are needed and none"):
        latent_features(None, normal(2, 3, 2, 2), "repa")
    with pytest.raises(TrainingError, match="those of 3"):
        latent_features(normal(3, 5, 2, 2), normal(2, 3, 2, 2), "repa")


# lcr


def looped_correlation(mean: torch.Tensor) -> torch.Tensor:
    scored = mean.clone()
    for channel in range(mean.shape[1]):
        values = mean[:, channel].detach()
        scored[:, channel] = (mean[:, channel] - values.mean()) / (values.std() + 1e-6)
    found = []
    for image in scored:
        for row in range(0, mean.shape[2] - 1, 2):
            for column in range(0, mean.shape[3] - 1, 2):
                corners = [image[:, row + i, column + j] for i in (0, 1) for j in (0, 1)]
                corners = [corner - corner.mean() for corner in corners]
                corners = [corner / (corner.norm() + 1e-8) for corner in corners]
                found += [corners[i] @ corners[j] for i in range(4) for j in range(i + 1, 4)]
    return torch.stack(found).mean()


@pytest.mark.parametrize("grid", [(4, 4), (5, 3), (2, 7)])
def test_local_correlation_equals_a_loop(grid):
    mean = normal(3, 4, *grid)
    torch.testing.assert_close(local_correlation(mean), looped_correlation(mean), rtol=1e-9, atol=0)


def test_local_correlation_of_constant_windows_is_one_and_of_opposites_negative():
    cells = normal(2, 4, 3, 3)
    smooth = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert local_correlation(smooth).item() == pytest.approx(1.0, abs=1e-6)
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(3, 3)
    # zero mean by symmetry: of the six pairs two agree and four oppose
    assert local_correlation(smooth * signs).item() == pytest.approx(-1 / 3, abs=1e-6)


def test_lcr_penalty_and_its_hidden_factor():
    mean = normal(2, 4, 4, 4)
    correlation = local_correlation(mean)
    penalty = single(regularizer("lcr", weight=0.05, threshold=0.9), mean)
    torch.testing.assert_close(penalty.loss, 0.9 - correlation)
    torch.testing.assert_close(penalty.parts["local_correlation"], correlation)
    assert penalty.weight == pytest.approx(0.005)
    assert single(regularizer("lcr", weight=0.05, factor=1.0), mean).weight == pytest.approx(0.05)


def test_lcr_gradient_vanishes_above_the_threshold():
    mean = normal(2, 4, 4, 4).requires_grad_()
    above = local_correlation(mean).item() - 0.01
    single(regularizer("lcr", threshold=above), mean).loss.backward()
    assert mean.grad.abs().max() == 0
    mean.grad = None
    single(regularizer("lcr", threshold=above + 0.02), mean).loss.backward()
    assert mean.grad.abs().max() > 0


def test_lcr_uses_the_mean_and_constant_statistics():
    mean = normal(2, 4, 4, 4)
    made = regularizer("lcr")
    posterior = Posterior(mean, torch.zeros_like(mean))
    (penalty,) = made.penalties(posterior, mean + 100 * normal(2, 4, 4, 4, seed=1), None)
    torch.testing.assert_close(penalty.loss, 0.75 - local_correlation(mean))
    varied = mean.clone().requires_grad_()
    expected = mean.clone().requires_grad_()
    local_correlation(varied).backward()
    looped_correlation(expected).backward()
    torch.testing.assert_close(varied.grad, expected.grad, rtol=1e-9, atol=1e-12)


def test_lcr_refuses_latents_without_neighbours():
    for shape in [(2, 1, 4, 4), (2, 4, 1, 4), (2, 4, 4, 1)]:
        with pytest.raises(StudyError, match="no local correlation"):
            local_correlation(torch.zeros(shape))


# lmr


def test_masked_latents_are_the_token_at_the_same_positions_of_all_images():
    made = regularizer("lmr", 3, probabilities=(0, 1, 0)).initialise(seeded()).double()
    latents, images = normal(4, 3, 4, 4), normal(4, 1, 8, 8)
    choice = made.draw((4, 4), 4, seeded())
    assert choice.shape == (1, 4, 4)
    found, target = made.transform(latents, images, choice)
    assert target is images
    masked = choice[0]
    assert masked.sum() == 8
    token = made.mask_token
    assert torch.equal(found[:, :, masked], token[None, :, None].expand(4, 3, 8))
    assert torch.equal(found[:, :, ~masked], latents[:, :, ~masked])
    found.sum().backward()
    assert token.grad.tolist() == [32.0] * 3


def test_own_positions_for_each_image_by_choice():
    made = regularizer("lmr", 3, probabilities=(1, 0, 0), shared=False).initialise(seeded())
    choice = made.draw((8, 8), 5, seeded())
    assert choice.flatten(1).sum(1).tolist() == [16] * 5
    assert not torch.equal(choice[0], choice[1])


def test_ratios_are_drawn_with_their_probabilities():
    made = regularizer("lmr", 3, probabilities=(0.1, 0.2, 0.3))
    generator, steps = seeded(), 4000
    counts = dict.fromkeys((0, 4, 8, 12), 0)
    for _ in range(steps):
        choice = made.draw((4, 4), 2, generator)
        counts[0 if choice is None else int(choice.sum())] += 1
    for number, probability in zip((0, 4, 8, 12), (0.4, 0.1, 0.2, 0.3), strict=True):
        error = (probability * (1 - probability) / steps) ** 0.5
        assert abs(counts[number] / steps - probability) < 4 * error, number


def test_a_share_that_is_not_whole_is_rounded_down():
    assert random_positions((3, 5), 2, 0.5, seeded()).flatten(1).sum(1).tolist() == [7, 7]
    assert random_positions((3, 5), 2, 0.5, seeded()).shape == (2, 3, 5)
    counts = sum(random_positions((2, 2), 1, 0.25, seeded(s)).float() for s in range(400))
    assert (counts / 400 - 0.25).abs().max() < 4 * (0.25 * 0.75 / 400) ** 0.5


def test_lmr_refuses_probabilities_above_one():
    for wrong in [(0.5, 0.5, 0.1), (-0.1, 0.2, 0.2)]:
        with pytest.raises(ValidationError, match="probabilities"):
            regularizer("lmr", 3, probabilities=wrong)


def test_the_mask_token_starts_as_a_unit_normal():
    token = regularizer("lmr", 4000).initialise(seeded()).mask_token
    assert token.mean().item() == pytest.approx(0, abs=4 / 4000**0.5)
    assert token.std().item() == pytest.approx(1, abs=4 / 8000**0.5)


# mae


def test_mae_ratio_is_uniform_and_clamped_at_zero():
    made, generator, steps = regularizer("mae", ratio=0.7), seeded(), 4000
    images = normal(2, 1, 32, 32)
    shares = []
    for _ in range(steps):
        choice = made.draw((16, 16), 2, generator)
        mask = made.encoder_mask(images, choice)
        if mask is None:
            shares.append(0.0)
            continue
        per_image = mask.flatten(1).float().mean(1)
        assert per_image[0] == per_image[1]
        shares.append(per_image[0].item())
    shares = torch.tensor(shares)
    assert shares.max() <= 0.7
    unmasked = 0.1 / 0.8  # share of U(-0.1, 0.7) below zero; a mask of no whole token is none
    below = (0.1 + 1 / 256) / 0.8
    error = (below * (1 - below) / steps) ** 0.5
    assert unmasked - 4 * error < (shares == 0).float().mean() < below + 4 * error
    # E max(0, U) = 0.7² / (2 · 0.8), less half a token for rounding down
    assert shares.mean().item() == pytest.approx(0.49 / 1.6 - 0.5 / 256, abs=4 * 0.23 / steps**0.5)


def test_mae_masks_differ_between_images():
    choice = next(
        c
        for s in range(9)
        if (c := regularizer("mae", ratio=0.7).draw((8, 8), 2, seeded(s))) is not None
    )
    assert choice.shape == (2, 8, 8)
    assert not torch.equal(choice[0], choice[1])
    for wrong in (0.0, 1.0):
        with pytest.raises(ValidationError, match="ratio"):
            regularizer("mae", ratio=wrong)


# seeding, and whole steps


def everything() -> list[Regularizer]:
    return [
        regularizer(),
        regularizer("repa", 4, 6, hidden=8),
        regularizer("mcos+mdms", 4, 6),
        regularizer("eq", operators=("scale", "flip", "rotation")),
        regularizer("lcr"),
        regularizer("lmr", 4, probabilities=(0.3, 0.3, 0.3)),
        regularizer("mae", ratio=0.7),
    ]


@pytest.mark.parametrize("index", range(7))
def test_one_seed_gives_one_result_without_global_state(index):
    images = normal(4, 1, 16, 16).float().clamp(-1, 1)
    features = normal(4, 6, 8, 8, seed=1).float()
    totals = []
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        made = everything()[index].initialise(seeded())
        network = vit(1, 4, 2, 8, 16, 1, 2).initialise(seeded())
        losses = TokenizerLosses(network, objective(perceptual=0, gan=0), made)
        total = sum(
            losses.autoencoder_loss(images, features, step, seeded(10 * seed + step)).total
            for step in range(4)
        )
        total.backward()
        totals.append(total.item())
    assert totals[0] == totals[1] != totals[2]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("index", range(7))
def test_an_entry_says_whether_a_step_computes_an_adaptive_factor(index):
    """A plan counts the passes that it costs."""
    images, features = normal(4, 1, 16, 16).float().clamp(-1, 1), normal(4, 6, 8, 8).float()
    made = everything()[index].initialise(seeded())
    network = vit(1, 4, 2, 8, 16, 1, 2).initialise(seeded())
    losses = TokenizerLosses(network, objective(perceptual=0, gan=0), made)
    terms = losses.autoencoder_loss(images, features, 0, seeded()).terms
    assert any(name.endswith("_factor") for name in terms) == made.options.balanced


# the registry


def test_every_declared_regularizer_has_code_of_the_one_convention():
    for method in {*REGULARIZERS} - {"gpe"} - NAMED:
        assert isinstance(regularizer(method, 4, 6), Regularizer), method
    assert type(regularizer()) is Regularizer
    own = {*REGULARIZERS} - PLAIN - NAMED
    assert all(type(regularizer(method, 4, 6)) is not Regularizer for method in own)


def test_a_method_with_a_training_of_its_own_is_no_baseline():
    network = {"arch": "vector", "factor": 2, "channels": 1}
    entry = {"network": network, "regularizer": {"method": "gpe"}, "train": {"steps": 1}}
    with pytest.raises(TypeError, match="gpe is trained by a stage of its own"):
        build_regularizer(TokenizerSpec.model_validate(entry), None)
