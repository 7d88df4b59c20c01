"""Contrastive training: NT-Xent in closed form and by a loop, views, and what is learnt."""

import math
from pathlib import Path

import pytest
import torch

from diffusability.data.digits import load_digits
from diffusability.encoders.augmentation import CUT_OUT, may_flip, random_view
from diffusability.encoders.contrastive import ContrastiveLoss, ContrastiveNetwork, nt_xent
from diffusability.study.core.spec import TrainSpec
from diffusability.study.entries.pixel_dataset import DigitsDataset
from diffusability.training.images import TrainingImages
from diffusability.training.loop import train
from diffusability.training.run import Batch, Phase, Run
from tests.unit import networks
from tests.unit.feature_probe import nearest_mean_accuracy, probe_accuracy

SPEC = networks.encoder_spec("contrastive", projection=16, temperature=0.2)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own for every use."""
    return torch.Generator().manual_seed(seed)


def network(features: int = 32) -> ContrastiveNetwork:
    """A small network with seeded weights."""
    model = ContrastiveNetwork(SPEC, networks.encoder(1, 16, features, 2, 0))
    model.initialise(seeded())
    return model


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_of_identical_embeddings_tells_nothing_apart(temperature: float) -> None:
    same = torch.ones(5, 3)
    loss, _ = nt_xent(same, 2 * same, temperature)
    assert loss.item() == pytest.approx(math.log(2 * 5 - 1), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_of_orthogonal_pairs(temperature: float) -> None:
    # one positive of cosine 1 among 2B - 2 negatives of cosine 0
    count, own = 6, math.exp(1 / temperature)
    unit = torch.eye(count, dtype=torch.float64)
    loss, matched = nt_xent(3 * unit, unit, temperature)
    assert loss.item() == pytest.approx(-math.log(own / (own + 2 * count - 2)), rel=1e-9)
    assert matched.item() == 1


def test_nt_xent_against_a_loop() -> None:
    first, second = (torch.randn(7, 4, generator=seeded(k), dtype=torch.float64) for k in (1, 2))
    views = [v / v.norm() for v in (*first, *second)]
    losses, right = [], 0
    for i, view in enumerate(views):
        partner = (i + 7) % 14
        scores = {k: math.exp(float(view @ views[k]) / 0.3) for k in range(14) if k != i}
        losses.append(-math.log(scores[partner] / sum(scores.values())))
        right += max(scores, key=lambda k: scores[k]) == partner
    loss, matched = nt_xent(first, second, 0.3)
    assert loss.item() == pytest.approx(sum(losses) / 14, rel=1e-12)
    assert matched.item() == pytest.approx(right / 14)


def test_views_keep_shape_and_range_and_differ() -> None:
    for channels in (1, 3):
        images = torch.rand(8, channels, 16, 16, generator=seeded()) * 2 - 1
        view = random_view(images, seeded(1))
        assert view.shape == images.shape
        assert view.abs().max() <= 1
        assert torch.equal(view, random_view(images, seeded(1)))
        assert ((view - random_view(images, seeded(2))).abs().mean((1, 2, 3)) > 0.01).all()


def test_the_cut_out_square_has_its_size_in_every_image() -> None:
    images = torch.ones(64, 1, 16, 16)  # every other change leaves a constant image constant
    view = random_view(images, seeded())
    counts = (view == 0).sum((1, 2, 3))
    assert (counts == round(16 * CUT_OUT) ** 2).all()


def test_only_colour_images_are_mirrored() -> None:
    assert not may_flip(1)
    assert may_flip(3)
    ramp = torch.linspace(-0.5, 0.5, 16).expand(1, 16, 16)  # brighter to the right
    for channels in (1, 3):
        views = random_view(ramp.expand(64, channels, 16, 16), seeded())
        left, right = views[..., :8].mean((1, 2, 3)), views[..., 8:].mean((1, 2, 3))
        mirrored = int((left > right).sum())
        assert mirrored == 0 if channels == 1 else 16 < mirrored < 48


def test_gradients_reach_the_trunk_and_the_step_decides_the_views() -> None:
    data = load_digits(DigitsDataset(kind="digits", size=8))
    model = network()
    loss = ContrastiveLoss(SPEC, model, TrainingImages(data, data.split("all"), "cpu", 0))
    first, again, other = (loss(Batch(0, torch.arange(16), seeded(k))) for k in (1, 1, 2))
    assert torch.equal(first.total, again.total)
    assert not torch.equal(first.total, other.total)
    first.total.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_training_makes_features_that_tell_digits_apart(tmp_path: Path) -> None:
    # measured: linear probe 0.85 untrained, 0.94 trained; nearest class mean 0.66 and 0.89, where
    # that of all pixels names 0.90, and the mean pixel alone 0.13
    data = load_digits(DigitsDataset(kind="digits", size=8))
    chosen = data.split("train")
    model = network()
    probe, means = (
        judge(model.encoder.features, data) for judge in (probe_accuracy, nearest_mean_accuracy)
    )
    loss = ContrastiveLoss(SPEC, model, TrainingImages(data, chosen, "cpu", 0))
    spec = TrainSpec(steps=150, batch=64, lr=3e-3, schedule="cosine", ema=0.99)
    phase = Phase("nt_xent", list(model.parameters()), loss)
    run = Run("toy", spec, {"all": model}, [phase], len(chosen), 0, tmp_path, averaged="all")
    training = train(run)
    assert training.history[-1]["matched"] > 0.2  # by chance: 1 in 127
    features = training.averaged.encoder.features
    probed = probe_accuracy(features, data)
    assert probed > probe + 0.05
    assert probed > nearest_mean_accuracy(lambda images: images.flatten(1), data) + 0.02
    named = nearest_mean_accuracy(features, data)
    assert named > means + 0.15
    # far above what the brightness tells
    mean_pixel = nearest_mean_accuracy(lambda images: images.mean((1, 2, 3))[:, None], data)
    assert named > mean_pixel + 0.6
