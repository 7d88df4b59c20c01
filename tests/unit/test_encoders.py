"""The study's own encoder: shapes, a seeded start, and that it learns to tell digits apart."""

from pathlib import Path

import torch

from diffusability.data.digits import load_digits
from diffusability.data.images import to_float
from diffusability.encoders.classification import ClassificationLoss
from diffusability.encoders.convnet import ConvEncoder
from diffusability.study.dataset import DigitsDataset
from diffusability.study.spec import TrainSpec
from diffusability.training.images import TrainingImages
from diffusability.training.loop import Phase, Run, train


def encoder(factor: int = 2, features: int = 6) -> ConvEncoder:
    """A small encoder with seeded weights."""
    model = ConvEncoder(image_channels=1, width=8, features=features, factor=factor, num_classes=10)
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
