"""The nine regularizers: values by hand, and what each changes in training."""

from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from diffusability.errors import StudyError, TrainingError
from diffusability.tokenizers.conv import ConvAutoencoder
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.posterior import Posterior
from diffusability.tokenizers.regularizers.alignment import cosine_matrix, latent_features
from diffusability.tokenizers.regularizers.eq import Equivariance, Transformation, whole_scales
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer
from diffusability.tokenizers.regularizers.lcr import LocalCorrelation, local_correlation
from diffusability.tokenizers.regularizers.lmr import LatentMasking, random_positions
from diffusability.tokenizers.regularizers.mae import ImageMasking
from diffusability.tokenizers.regularizers.mcos import MarginalCosine
from diffusability.tokenizers.regularizers.mdms import MarginalDistance
from diffusability.tokenizers.regularizers.repa import RepresentationAlignment
from diffusability.tokenizers.regularizers.vision_alignment import VisionAlignment
from diffusability.tokenizers.training_step import TokenizerLosses
from diffusability.tokenizers.vit import VitAutoencoder


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def single(regularizer: Regularizer, latents: torch.Tensor, features=None) -> Penalty:
    posterior = Posterior(latents, torch.zeros_like(latents))
    (penalty,) = regularizer.penalties(posterior, latents, features)
    return penalty


# the baseline


def test_the_baseline_does_nothing():
    baseline = Regularizer().initialise(seeded())
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
    assert MarginalCosine(0.5)(projected, features).item() == pytest.approx(2.0 / 4)
    assert MarginalCosine(0.0)(projected, features).item() == pytest.approx((1 + 2 + 0.4) / 4)


def test_mdms_by_hand():
    projected = torch.tensor([[1.0, 0], [0, 2]]).T.reshape(1, 2, 1, 2)  # cosine 0
    features = torch.tensor([[1.0, 0], [3, 4]]).T.reshape(1, 2, 1, 2)  # cosine 0.6
    # four pairs: the diagonal agrees, both others differ by 0.6
    assert MarginalDistance(0.25)(projected, features).item() == pytest.approx(2 * 0.35 / 4)
    assert MarginalDistance(0.0)(projected, features).item() == pytest.approx(2 * 0.6 / 4)
    assert MarginalDistance(0.0)(features, projected).item() == pytest.approx(2 * 0.6 / 4)


def test_cosine_matrices_stay_inside_an_image():
    grid = normal(3, 4, 2, 5)
    found = cosine_matrix(grid)
    assert found.shape == (3, 10, 10)
    one, two = grid[1, :, 0, 3], grid[1, :, 1, 2]
    torch.testing.assert_close(found[1, 3, 7], one @ two / one.norm() / two.norm())


def test_vision_alignment_adds_its_losses_under_one_projection():
    latents, features = normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1)
    losses = (MarginalCosine(0.1), MarginalDistance(0.2))
    regularizer = VisionAlignment(3, 5, losses).initialise(seeded()).double()
    assert [tuple(p.shape) for p in regularizer.parameters()] == [(5, 3, 1, 1)]  # no bias
    penalty = single(regularizer, latents, features)
    projected = torch.einsum("dc,bchw->bdhw", regularizer.projection.weight[..., 0, 0], latents)
    expected = losses[0](projected, features) + losses[1](projected, features)
    torch.testing.assert_close(penalty.loss, expected)
    assert (penalty.name, penalty.weight, penalty.adaptive) == ("mcos+mdms", 0.1, True)
    assert penalty.maximum == 1e8


@pytest.mark.parametrize("loss", [MarginalCosine(), MarginalDistance()])
def test_each_alignment_loss_stands_alone(loss):
    regularizer = VisionAlignment(3, 5, (loss,)).initialise(seeded()).double()
    penalty = single(regularizer, normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1))
    assert penalty.name == loss.name
    torch.testing.assert_close(penalty.loss, penalty.parts[loss.name])


def test_repa_equals_a_loop():
    regularizer = RepresentationAlignment(3, 5, hidden=7).initialise(seeded()).double()
    latents, features = normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1)
    layers = [layer for layer in regularizer.projection if hasattr(layer, "weight")]
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
    penalty = single(regularizer, latents, features)
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
    penalty = single(LocalCorrelation(weight=0.05, threshold=0.9), mean)
    torch.testing.assert_close(penalty.loss, 0.9 - correlation)
    torch.testing.assert_close(penalty.parts["local_correlation"], correlation)
    assert penalty.weight == pytest.approx(0.005)
    assert single(LocalCorrelation(weight=0.05, factor=1.0), mean).weight == pytest.approx(0.05)


def test_lcr_gradient_vanishes_above_the_threshold():
    mean = normal(2, 4, 4, 4).requires_grad_()
    above = local_correlation(mean).item() - 0.01
    single(LocalCorrelation(threshold=above), mean).loss.backward()
    assert mean.grad.abs().max() == 0
    mean.grad = None
    single(LocalCorrelation(threshold=above + 0.02), mean).loss.backward()
    assert mean.grad.abs().max() > 0


def test_lcr_uses_the_mean_and_constant_statistics():
    mean = normal(2, 4, 4, 4)
    regularizer = LocalCorrelation()
    posterior = Posterior(mean, torch.zeros_like(mean))
    (penalty,) = regularizer.penalties(posterior, mean + 100 * normal(2, 4, 4, 4, seed=1), None)
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
    regularizer = LatentMasking(3, (0, 1, 0)).initialise(seeded()).double()
    latents, images = normal(4, 3, 4, 4), normal(4, 1, 8, 8)
    choice = regularizer.draw((4, 4), 4, seeded())
    assert choice.shape == (1, 4, 4)
    found, target = regularizer.transform(latents, images, choice)
    assert target is images
    masked = choice[0]
    assert masked.sum() == 8
    token = regularizer.mask_token
    assert torch.equal(found[:, :, masked], token[None, :, None].expand(4, 3, 8))
    assert torch.equal(found[:, :, ~masked], latents[:, :, ~masked])
    found.sum().backward()
    assert token.grad.tolist() == [32.0] * 3


def test_own_positions_for_each_image_by_choice():
    regularizer = LatentMasking(3, (1, 0, 0), shared=False).initialise(seeded())
    choice = regularizer.draw((8, 8), 5, seeded())
    assert choice.flatten(1).sum(1).tolist() == [16] * 5
    assert not torch.equal(choice[0], choice[1])


def test_ratios_are_drawn_with_their_probabilities():
    regularizer = LatentMasking(3, (0.1, 0.2, 0.3))
    generator, steps = seeded(), 4000
    counts = dict.fromkeys((0, 4, 8, 12), 0)
    for _ in range(steps):
        choice = regularizer.draw((4, 4), 2, generator)
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
        with pytest.raises(StudyError, match="probabilities"):
            LatentMasking(3, wrong)


def test_the_mask_token_starts_as_a_unit_normal():
    token = LatentMasking(4000).initialise(seeded()).mask_token
    assert token.mean().item() == pytest.approx(0, abs=4 / 4000**0.5)
    assert token.std().item() == pytest.approx(1, abs=4 / 8000**0.5)


# mae


def test_mae_ratio_is_uniform_and_clamped_at_zero():
    regularizer, generator, steps = ImageMasking(0.7), seeded(), 4000
    images = normal(2, 1, 32, 32)
    shares = []
    for _ in range(steps):
        choice = regularizer.draw((16, 16), 2, generator)
        mask = regularizer.encoder_mask(images, choice)
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
        c for s in range(9) if (c := ImageMasking(0.7).draw((8, 8), 2, seeded(s))) is not None
    )
    assert choice.shape == (2, 8, 8)
    assert not torch.equal(choice[0], choice[1])
    for wrong in (0.0, 1.0):
        with pytest.raises(StudyError, match="maximum ratio"):
            ImageMasking(wrong)


# eq


def test_scales_of_the_paper_grid_and_of_any_other():
    assert whole_scales((16, 16)) == [Fraction(k, 16) for k in range(4, 16)]
    assert whole_scales((6, 4)) == [Fraction(1, 2)]
    assert whole_scales((7, 5)) == []
    for grid in [(8, 8), (12, 18), (7, 7), (32, 16)]:
        scales = whole_scales(grid)
        assert scales
        assert all(Fraction(1, 4) <= s < 1 for s in scales)
        assert all((s * side).denominator == 1 for s in scales for side in grid)


@pytest.mark.parametrize("operators", [("scale",), ("flip",), ("rotation",), ("scale", "rotation")])
def test_image_and_latent_stay_in_the_ratio_of_the_factor(operators):
    regularizer, generator = Equivariance(operators, 1.0), seeded()
    latents, images = normal(2, 3, 8, 12), normal(2, 1, 32, 48)
    seen = set()
    for _ in range(60):
        choice = regularizer.draw((8, 12), 2, generator)
        assert regularizer.prepare_images(images, choice) is images
        moved, target = regularizer.transform(latents, images, choice)
        assert [4 * side for side in moved.shape[2:]] == list(target.shape[2:])
        seen.add((choice.scale, choice.flip, choice.turns))
        assert (choice.scale != 1) == ("scale" in operators)
        assert bool(choice.flip) == ("flip" in operators)
        assert bool(choice.turns) == ("rotation" in operators)
    scales = 3 if "scale" in operators else 1  # {1, 2, 3}/4
    other = 3 if {"flip", "rotation"} & set(operators) else 1
    assert len(seen) == scales * other


def test_transformations_by_hand():
    grid = torch.arange(4.0).view(1, 1, 2, 2)
    assert Transformation(turns=1).apply(grid).flatten().tolist() == [1, 3, 0, 2]
    assert Transformation(flip=(3,)).apply(grid).flatten().tolist() == [1, 0, 3, 2]
    assert Transformation(flip=(2,)).apply(grid).flatten().tolist() == [2, 3, 0, 1]
    assert Transformation(scale=Fraction(1, 2)).apply(grid).flatten().tolist() == [1.5]
    both = Transformation(scale=Fraction(1, 2), turns=1, flip=(3,))
    tall = torch.arange(8.0).view(1, 1, 4, 2)  # means 1.5 and 5.5, one column
    assert both.apply(tall).tolist() == [[[[1.5, 5.5]]]]


def test_branches_have_their_probabilities():
    regularizer, generator, steps = Equivariance(("scale", "flip"), 0.5, 0.25), seeded(), 4000
    images, latents = normal(1, 1, 16, 16), normal(1, 3, 8, 8)
    counts = {"equivariance": 0, "prior": 0, "plain": 0}
    for _ in range(steps):
        choice = regularizer.draw((8, 8), 1, generator)
        if choice is None:
            counts["plain"] += 1
        elif choice.before_encoding:
            counts["prior"] += 1
            small = regularizer.prepare_images(images, choice)
            assert small.shape[-1] == 16 * choice.scale < 16
            assert regularizer.transform(latents, small, choice) == (latents, small)
            assert (choice.flip, choice.turns) == ((), 0)
        else:
            counts["equivariance"] += 1
    for name, probability in (("equivariance", 0.5), ("prior", 0.125), ("plain", 0.375)):
        error = (probability * (1 - probability) / steps) ** 0.5
        assert abs(counts[name] / steps - probability) < 4 * error, name


def test_flips_alone_have_no_downscaled_images():
    regularizer, generator = Equivariance(("flip",), 0.0, 1.0), seeded()
    assert all(regularizer.draw((8, 8), 1, generator) is None for _ in range(20))


def test_eq_refuses_what_cannot_work():
    with pytest.raises(StudyError, match="no scale keeps a latent grid of 7x5"):
        Equivariance(("scale",)).draw((7, 5), 1, seeded())
    for wrong in [(), ("shear",)]:
        with pytest.raises(StudyError, match="scale, flip, rotation"):
            Equivariance(wrong)


# seeding, and whole steps


def everything() -> list[Regularizer]:
    return [
        Regularizer(),
        RepresentationAlignment(4, 6, hidden=8),
        VisionAlignment(4, 6, (MarginalCosine(), MarginalDistance())),
        Equivariance(("scale", "flip", "rotation")),
        LocalCorrelation(),
        LatentMasking(4, (0.3, 0.3, 0.3)),
        ImageMasking(0.7),
    ]


@pytest.mark.parametrize("index", range(7))
def test_one_seed_gives_one_result_without_global_state(index):
    images = normal(4, 1, 16, 16).float().clamp(-1, 1)
    features = normal(4, 6, 8, 8, seed=1).float()
    totals = []
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        regularizer = everything()[index].initialise(seeded())
        network = VitAutoencoder(1, 4, 2, 8, 16, 1, 2).initialise(seeded())
        losses = TokenizerLosses(network, Objective(perceptual=0, gan=0), regularizer)
        total = sum(
            losses.autoencoder_loss(images, features, step, seeded(10 * seed + step)).total
            for step in range(4)
        )
        total.backward()
        totals.append(total.item())
    assert totals[0] == totals[1] != totals[2]
    assert torch.equal(state, torch.get_rng_state())


# what training with each does to the statistic that it is meant to move

STEPS = 80
BATCH = 16


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Training and held-out digits, (N, 1, 16, 16) in [-1, 1]."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    images = functional.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    order = torch.randperm(len(images), generator=seeded())
    return images[order[:1400]], images[order[1400:1600]]


def conv() -> Tokenizer:
    return ConvAutoencoder(1, 4, 8, (1, 2), 1, 1, attention=False).initialise(seeded())


def vit() -> Tokenizer:
    return VitAutoencoder(1, 4, 2, 8, 32, 2, 2).initialise(seeded())


def blurred_neighbourhoods(images: torch.Tensor) -> torch.Tensor:
    """A frozen 'encoder': coarse surroundings of each cell, (B, 9, 8, 8)."""
    coarse = functional.avg_pool2d(images, 5, stride=2, padding=2)
    return functional.unfold(coarse, 3, padding=1).unflatten(2, (8, 8))


def trained(
    network: Tokenizer, regularizer: Regularizer, images: torch.Tensor, steps: int = STEPS
) -> Tokenizer:
    losses = TokenizerLosses(network, Objective(perceptual=0, gan=0), regularizer)
    optimizer = torch.optim.Adam(list(losses.autoencoder_parameters()), 3e-3)
    order = seeded(5)
    for step in range(steps):
        batch = images[torch.randint(len(images), (BATCH,), generator=order)]
        loss = losses.autoencoder_loss(batch, blurred_neighbourhoods(batch), step, seeded(step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return network


@pytest.fixture(scope="module")
def conv_baseline(digits) -> Tokenizer:
    return trained(conv(), Regularizer(), digits[0])


def best_cosine(network: Tokenizer, images: torch.Tensor) -> float:
    """Mean cosine between features and the best linear map of the latents, higher is better."""
    with torch.no_grad():
        latents = network.encode(images).mean.permute(0, 2, 3, 1).reshape(-1, 4).double()
        features = blurred_neighbourhoods(images).permute(0, 2, 3, 1).reshape(-1, 9).double()
        mapping = torch.linalg.lstsq(latents, features).solution
        return functional.cosine_similarity(latents @ mapping, features, dim=1).mean().item()


@pytest.mark.parametrize("method", ["repa", "mcos", "mcos+mdms"])
def test_alignment_raises_the_cosine_of_latents_and_features(method, digits, conv_baseline):
    losses = {"mcos": (MarginalCosine(0.0),), "mcos+mdms": (MarginalCosine(), MarginalDistance())}
    regularizer = (
        RepresentationAlignment(4, 9, hidden=32, weight=1.0)
        if method == "repa"
        else VisionAlignment(4, 9, losses[method], weight=1.0)
    ).initialise(seeded(1))
    network = trained(conv(), regularizer, digits[0])
    assert best_cosine(network, digits[1]) > best_cosine(conv_baseline, digits[1]) + 0.02


class Probe(VisionAlignment):
    """The same projection, trained on latents that it cannot change."""

    def penalties(self, posterior, latents, features):
        (penalty,) = super().penalties(posterior, latents.detach(), features)
        return [Penalty(penalty.name, 1e3 * penalty.loss, 1.0, adaptive=False)]


def test_mdms_brings_the_cosine_matrices_together(digits):
    def distance(regularizer: VisionAlignment) -> float:
        network = trained(conv(), regularizer.initialise(seeded(1)), digits[0])
        with torch.no_grad():
            projected = regularizer.projection(network.encode(digits[1]).mean)
            return MarginalDistance(0.0)(projected, blurred_neighbourhoods(digits[1])).item()

    losses = (MarginalDistance(0.0),)
    assert distance(VisionAlignment(4, 9, losses, 1.0)) < 0.8 * distance(Probe(4, 9, losses))


def test_lcr_raises_the_local_correlation(digits, conv_baseline):
    network = trained(conv(), LocalCorrelation(1.0, 0.95, factor=1.0), digits[0])
    with torch.no_grad():
        found, plain = (
            local_correlation(net.encode(digits[1]).mean) for net in (network, conv_baseline)
        )
    assert found > plain + 0.1


def error_under(network: Tokenizer, transformation: Transformation, images: torch.Tensor) -> float:
    """Mean absolute difference of Dec(τ z) and τ x, lower is more equivariant."""
    with torch.no_grad():
        decoded = network.decode(transformation.apply(network.encode(images).mean))
        return (decoded - transformation.apply(images)).abs().mean().item()


@pytest.mark.parametrize(
    ("operator", "transformation", "steps"),
    [
        ("scale", Transformation(scale=Fraction(1, 2)), 200),  # small images take longest to learn
        ("flip", Transformation(flip=(3,)), STEPS),
        ("rotation", Transformation(turns=1), STEPS),
    ],
)
def test_eq_lowers_the_equivariance_error(operator, transformation, steps, digits, conv_baseline):
    network = trained(conv(), Equivariance((operator,)), digits[0], steps)
    plain = conv_baseline if steps == STEPS else trained(conv(), Regularizer(), digits[0], steps)
    found = error_under(network, transformation, digits[1])
    assert found < 0.9 * error_under(plain, transformation, digits[1])


def test_lmr_reconstructs_better_from_masked_latents(digits, conv_baseline):
    regularizer = LatentMasking(4, (0.3, 0.3, 0.0)).initialise(seeded(1))
    network = trained(conv(), regularizer, digits[0])
    mask = random_positions((8, 8), 1, 0.5, seeded(7))

    def error(net: Tokenizer, fill: LatentMasking) -> float:
        with torch.no_grad():
            latents, target = fill.transform(net.encode(digits[1]).mean, digits[1], mask)
            return (net.decode(latents) - target).abs().mean().item()

    assert error(network, regularizer) < 0.9 * error(conv_baseline, regularizer)


def test_mae_reconstructs_better_from_masked_images(digits):
    mask = random_positions((8, 8), len(digits[1]), 0.5, seeded(7))

    def error(network: Tokenizer) -> float:
        with torch.no_grad():
            found = network.decode(network.encode(digits[1], mask).mean)
            return (found - digits[1]).abs().mean().item()

    plain = trained(vit(), Regularizer(), digits[0])
    masked = trained(vit(), ImageMasking(0.7), digits[0])
    assert error(masked) < 0.9 * error(plain)
