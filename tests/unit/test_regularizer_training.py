"""What training with each regularizer does to the statistic that it is meant to move.

Every one is trained for a few dozen steps on the digits, beside a baseline of the same seed.
"""

from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.regularizers.alignment import VisionAlignment, marginal_distance
from diffusability.tokenizers.regularizers.eq import Transformation
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer
from diffusability.tokenizers.regularizers.lcr import local_correlation
from diffusability.tokenizers.regularizers.masking import LatentMasking, random_positions
from diffusability.tokenizers.training_step import TokenizerLosses
from tests.unit import networks
from tests.unit.networks import objective, regularizer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


pytestmark = pytest.mark.release  # trainings
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
    return networks.conv(1, 4, 8, (1, 2), 1, 1, attention=False).initialise(seeded())


def vit() -> Tokenizer:
    return networks.vit(1, 4, 2, 8, 32, 2, 2).initialise(seeded())


def blurred_neighbourhoods(images: torch.Tensor) -> torch.Tensor:
    """A frozen 'encoder': coarse surroundings of each cell, (B, 9, 8, 8)."""
    coarse = functional.avg_pool2d(images, 5, stride=2, padding=2)
    return functional.unfold(coarse, 3, padding=1).unflatten(2, (8, 8))


def trained(
    network: Tokenizer, regularizer: Regularizer, images: torch.Tensor, steps: int = STEPS
) -> Tokenizer:
    losses = TokenizerLosses(network, objective(perceptual=0, gan=0), regularizer)
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
    return trained(conv(), regularizer(), digits[0])


def best_cosine(network: Tokenizer, images: torch.Tensor) -> float:
    """Mean cosine between features and the best linear map of the latents, higher is better."""
    with torch.no_grad():
        latents = network.encode(images).mean.permute(0, 2, 3, 1).reshape(-1, 4).double()
        features = blurred_neighbourhoods(images).permute(0, 2, 3, 1).reshape(-1, 9).double()
        mapping = torch.linalg.lstsq(latents, features).solution
        return functional.cosine_similarity(latents @ mapping, features, dim=1).mean().item()


@pytest.mark.parametrize("method", ["repa", "mcos", "mcos+mdms"])
def test_alignment_raises_the_cosine_of_latents_and_features(method, digits, conv_baseline):
    options = {"repa": {"hidden": 32}, "mcos": {"cosine_margin": 0.0}, "mcos+mdms": {}}[method]
    aligned = regularizer(method, 4, 9, weight=1.0, **options).initialise(seeded(1))
    network = trained(conv(), aligned, digits[0])
    assert best_cosine(network, digits[1]) > best_cosine(conv_baseline, digits[1]) + 0.02


class Probe(VisionAlignment):
    """The same projection, trained on latents that it cannot change."""

    def penalties(self, posterior, latents, features):
        (penalty,) = super().penalties(posterior, latents.detach(), features)
        return [Penalty(penalty.name, 1e3 * penalty.loss, 1.0, adaptive=False)]


@pytest.mark.parametrize("method", ["mdms", "mcos+mdms"])
def test_mdms_brings_the_cosine_matrices_together(method, digits):
    def distance(aligned: VisionAlignment) -> float:
        network = trained(conv(), aligned.initialise(seeded(1)), digits[0], STEPS // 2)
        with torch.no_grad():
            projected = aligned.projection(network.encode(digits[1]).mean)
            return marginal_distance(projected, blurred_neighbourhoods(digits[1]), 0.0).item()

    # the probe's latents are the baseline's; only the projection learns
    margins = {"distance_margin": 0.0}
    if method == "mcos+mdms":
        margins["cosine_margin"] = 0.0
    aligned = regularizer(method, 4, 9, weight=1.0, **margins)
    found, plain = distance(aligned), distance(Probe(aligned.options, 4, 9))
    assert found < 0.8 * plain


def test_lcr_raises_the_local_correlation(digits, conv_baseline):
    network = trained(conv(), regularizer("lcr", weight=1.0, threshold=0.95, factor=1.0), digits[0])
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


@pytest.mark.release
@pytest.mark.parametrize(
    ("operator", "transformation", "steps"),
    [
        ("scale", Transformation(scale=Fraction(1, 2)), 200),  # small images take longest to learn
        ("flip", Transformation(flip=(3,)), STEPS),
        ("rotation", Transformation(turns=1), STEPS),
    ],
)
def test_eq_lowers_the_equivariance_error(operator, transformation, steps, digits, conv_baseline):
    network = trained(conv(), regularizer("eq", operators=(operator,)), digits[0], steps)
    plain = conv_baseline if steps == STEPS else trained(conv(), regularizer(), digits[0], steps)
    found = error_under(network, transformation, digits[1])
    assert found < 0.9 * error_under(plain, transformation, digits[1])


def test_lmr_reconstructs_better_from_masked_latents(digits, conv_baseline):
    masking = regularizer("lmr", 4, probabilities=(0.3, 0.3, 0.0)).initialise(seeded(1))
    network = trained(conv(), masking, digits[0])
    mask = random_positions((8, 8), 1, 0.5, seeded(7))

    def error(net: Tokenizer, fill: LatentMasking) -> float:
        with torch.no_grad():
            latents, target = fill.transform(net.encode(digits[1]).mean, digits[1], mask)
            return (net.decode(latents) - target).abs().mean().item()

    assert error(network, masking) < 0.9 * error(conv_baseline, masking)


@pytest.mark.release
def test_mae_reconstructs_better_from_masked_images(digits):
    mask = random_positions((8, 8), len(digits[1]), 0.5, seeded(7))

    def error(network: Tokenizer) -> float:
        with torch.no_grad():
            found = network.decode(network.encode(digits[1], mask).mean)
            return (found - digits[1]).abs().mean().item()

    plain = trained(vit(), regularizer(), digits[0])
    masked = trained(vit(), regularizer("mae", ratio=0.7), digits[0])
    assert error(masked) < 0.9 * error(plain)
