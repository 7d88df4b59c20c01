"""A training step copies nothing to the GPU that the host would wait for."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from diffusability.data.images import ImageSet
from diffusability.encoders.pretext import ClassificationLoss
from diffusability.latents.posteriors import HELD_BYTES, Posteriors
from diffusability.nn.initialisation import initialise
from diffusability.nn.transfer import to_device
from diffusability.nn.transformer import Transformer
from diffusability.stages.tokenizer import TargetFeatures
from diffusability.tokenizers.serpentine import to_grid, to_vector
from diffusability.training.images import TrainingImages
from diffusability.training.run import Batch
from tests.unit.pretend_device import DEVICE, PretendDevice
from tests.unit.small_diffusion import IMAGES, small_latents

PICKED = torch.tensor([3, 0, 2])


@pytest.fixture
def gpu() -> Iterator[PretendDevice]:
    with PretendDevice() as pretend:
        yield pretend


def batch() -> Batch:
    return Batch(0, PICKED, torch.Generator())


def images(device: torch.device) -> TrainingImages:
    pixels = torch.arange(5 * 64, dtype=torch.uint8).view(5, 1, 8, 8)
    labels, held_out = torch.arange(5), torch.zeros(5, dtype=torch.bool)
    data = ImageSet(pixels, labels, torch.zeros(5, 8, 8), held_out, 5)
    return TrainingImages(data, torch.arange(5), device, 0)


def test_a_plain_copy_is_counted(gpu: PretendDevice) -> None:
    moved = PICKED.to(DEVICE)
    assert gpu.on(moved)
    assert gpu.waits == 1
    assert gpu.on(to_device(PICKED, DEVICE))
    assert gpu.waits == 1
    to_device(moved, torch.device("cpu"))
    assert gpu.waits == 2  # from the device the host has to wait


def test_images_and_features_of_a_batch(gpu: PretendDevice) -> None:
    class Encoder(nn.Module):
        def grid(self, shown: Tensor) -> Tensor:
            return shown[:, :, ::4, ::4]

    shown = images(DEVICE)
    features = TargetFeatures(Encoder(), shown)
    before = gpu.waits
    found = shown(batch())
    assert gpu.on(found)
    assert torch.equal(features(batch(), found), found[:, :, ::4, ::4])
    assert gpu.waits == before


@pytest.mark.parametrize("held_bytes", [0, HELD_BYTES])
def test_posteriors_and_labels_of_a_batch(gpu: PretendDevice, held_bytes: int) -> None:
    posteriors = Posteriors(small_latents(), torch.arange(IMAGES), DEVICE, held_bytes)
    before = gpu.waits
    mean, std = posteriors.fetch(PICKED)
    assert gpu.on(mean)
    assert gpu.on(std)
    assert gpu.on(posteriors.labels_of(PICKED))
    assert gpu.waits == before


def test_labels_of_a_classifier(gpu: PretendDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    # the shift of a batch is drawn on the device and read; a generator of the CPU cannot draw there
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.zeros(2, dtype=torch.int64))
    scores, labels = torch.eye(3, 5).to(DEVICE), torch.arange(5).to(DEVICE)
    loss = ClassificationLoss(lambda _: scores, images(DEVICE), labels)
    before = gpu.waits
    loss(batch())
    assert gpu.waits == before


def test_rotary_positions_and_vectors(gpu: PretendDevice) -> None:
    transformer = Transformer(16, 1, 2, 2)
    initialise(transformer, torch.Generator().manual_seed(0))
    tokens = torch.randn(2, 4, 16)
    expected = transformer(tokens, (2, 2))
    gpu.put(transformer)
    there = tokens.to(DEVICE)
    before = gpu.waits
    with torch.no_grad():
        found = transformer(there, (2, 2))
    assert gpu.on(found)
    assert torch.equal(found.cpu(), expected)
    before += 1  # of .cpu()
    assert gpu.on(to_grid(to_vector(there.view(2, 4, 4, 4)), (4, 4, 4)))
    assert gpu.waits == before
