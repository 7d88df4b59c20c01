"""The study's own encoder: shapes, a seeded start, and that it learns to tell digits apart."""

from pathlib import Path

import torch
from torch import nn

from diffusability.data.digits import load_digits
from diffusability.data.images import to_float
from diffusability.encoders.contrastive import ContrastiveNetwork
from diffusability.encoders.convnet import ConvEncoder
from diffusability.encoders.masked import MaskedAutoencoder
from diffusability.encoders.pretext import ClassificationLoss
from diffusability.study.core.spec import TrainSpec
from diffusability.study.entries.pixel_dataset import DigitsDataset
from diffusability.training.images import TrainingImages
from diffusability.training.loop import train
from diffusability.training.run import Phase, Run
from tests.unit import networks


def encoder(factor: int = 2, features: int = 6) -> ConvEncoder:
    """A small encoder with seeded weights."""
    model = networks.encoder(
        image_channels=1, width=8, features=features, factor=factor, num_classes=10
    )
    model.initialise(torch.Generator().manual_seed(0))
    return model


def test_shapes_and_pooling() -> None:
    images = torch.randn(3, 1, 16, 16)
    model = encoder(factor=4)
    grid = model.grid(images)
    assert grid.shape == (3, 6, 4, 4)
    assert torch.allclose(model.features(images), grid.mean((2, 3)))
    assert torch.allclose(model(images), model.head(grid.mean((2, 3))))
    maps = model.feature_maps(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 16), (16, 8, 8), (32, 4, 4), (6, 4, 4)]
    assert torch.equal(maps[-1], grid)


def test_one_seed_one_network() -> None:
    first, second = encoder().state_dict(), encoder().state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_it_learns(tmp_path: Path) -> None:
    data = load_digits(DigitsDataset(kind="digits", size=8))
    chosen, held_out = data.split("train"), data.split("val")
    model = encoder(factor=4, features=32)
    loss = ClassificationLoss(model, TrainingImages(data, chosen, "cpu", 0), data.labels[chosen])
    spec = TrainSpec(steps=200, batch=64, lr=3e-3, schedule="cosine")
    phase = Phase("cross_entropy", list(model.parameters()), loss)
    train(Run("toy", spec, {"encoder": model}, [phase], len(chosen), 0, tmp_path))
    predicted = model(to_float(data.images[held_out])).argmax(1)
    assert (predicted == data.labels[held_out]).float().mean() > 0.8


def test_its_batch_may_be_cut(tmp_path: Path) -> None:
    data = load_digits(DigitsDataset(kind="digits", size=8))
    trained = []
    for parts in (1, 4):
        model = encoder().double()
        pixels = to_float(data.images).double()
        loss = ClassificationLoss(model, lambda b, all=pixels: all[b.picked], data.labels)
        spec = TrainSpec(steps=5, batch=16, lr=1e-2, accumulation=parts)
        phase = Phase("cross_entropy", list(model.parameters()), loss, divisible=True)
        folder = tmp_path / str(parts)
        train(Run("toy", spec, {"encoder": model}, [phase], len(data.labels), 0, folder))
        trained.append(model.state_dict())
    whole, cut = trained
    assert not torch.equal(whole["head.weight"], encoder().double().head.weight)
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=0, atol=1e-12, msg=name)


def test_one_seed_draws_layer_by_layer_and_the_same_trunk_with_and_without_classes() -> None:
    model, generator = encoder(), torch.Generator().manual_seed(0)
    layers = [
        m for m in [*model.trunk.modules(), model.head] if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    for layer in layers:
        fan_in = layer.weight[0].numel()
        drawn = torch.empty_like(layer.weight).normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        torch.testing.assert_close(layer.weight, drawn)
        assert not layer.bias.any()
    classless = networks.encoder(image_channels=1, width=8, features=6, factor=2, num_classes=0)
    for network in (
        classless,
        ContrastiveNetwork(networks.encoder_spec("contrastive"), classless),
        MaskedAutoencoder(networks.encoder_spec("masked"), classless, 1),
    ):
        network.initialise(torch.Generator().manual_seed(0))
        for name, weight in classless.state_dict().items():
            assert torch.equal(weight, model.state_dict()[name])
    assert set(model.state_dict()) - set(classless.state_dict()) == {"head.weight", "head.bias"}


def test_without_classes_the_logits_are_empty() -> None:
    model = networks.encoder(image_channels=1, width=8, features=6, factor=2, num_classes=0)
    model.initialise(torch.Generator().manual_seed(0))
    assert model.classes == 0
    assert model(torch.randn(3, 1, 8, 8)).shape == (3, 0)
    assert model.features(torch.randn(3, 1, 8, 8)).shape == (3, 6)
