"""The patch discriminator and the hinge losses."""

import pytest
import torch
from pydantic import ValidationError

from diffusability.errors import StudyError
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.tokenizers.discriminator import (
    PatchDiscriminator,
    discriminator_hinge,
    generator_hinge,
)
from tests.unit.networks import discriminator


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_default_has_the_parameters_of_the_reference():
    network = PatchDiscriminator(ObjectiveSpec(), 3)
    # 4x4 kernels: 3-64 with bias, then 64-128-256-512 without, two numbers a norm, 512-1 with bias
    by_hand = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 2 * 896 + 1
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == by_hand
    assert count / 1e6 == pytest.approx(2.77, abs=0.005)


@pytest.mark.parametrize(
    ("side", "layers", "patches"), [(256, 3, 30), (32, 3, 2), (24, 3, 1), (16, 2, 2), (16, 1, 6)]
)
def test_number_of_patches(side, layers, patches):
    network = discriminator(1, 4, layers).initialise(seeded())
    images = torch.randn(2, 1, side, side, generator=seeded())
    assert network(images).shape == (2, 1, patches, patches)


def test_images_that_are_too_small_are_refused_at_the_exact_size():
    network = discriminator(1, 4, 3).initialise(seeded())
    with pytest.raises(StudyError, match="smaller than 24"):
        network(torch.zeros(2, 1, 23, 64))
    with pytest.raises(ValidationError, match="gan_layers"):
        ObjectiveSpec(gan_layers=0)


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 3.0])
    # real: 0, 0.5, 2; fake: 0, 1, 4
    assert discriminator_hinge(real, fake).item() == pytest.approx(0.5 * (2.5 / 3 + 5 / 3))
    assert discriminator_hinge(torch.zeros(4), torch.zeros(2)).item() == 1.0
    assert generator_hinge(fake).item() == pytest.approx(-1 / 3)


def test_weights_come_from_the_generator_with_the_published_spread():
    state = torch.get_rng_state()
    first, second = (PatchDiscriminator(ObjectiveSpec(), 3).initialise(seeded(1)) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
    assert first.layers[5].weight.std().item() == pytest.approx(0.02, rel=0.02)
    scales = first.layers[9].weight
    assert scales.mean().item() == pytest.approx(1.0, abs=0.005)
    assert scales.std().item() == pytest.approx(0.02, rel=0.2)


def test_no_running_state_is_left_behind():
    network = discriminator(1, 4, 1).initialise(seeded())
    assert not list(network.buffers())


def test_it_learns_to_tell_two_textures_apart():
    generator = seeded()
    network = discriminator(1, 8, 2).initialise(generator)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3, (0.5, 0.9))
    losses = []
    for _ in range(40):
        real = torch.randn(8, 1, 16, 16, generator=generator)
        fake = real.roll(1, 3) * 0.5 + real * 0.5
        loss = discriminator_hinge(network(real), network(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
