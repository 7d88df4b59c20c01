"""The convolutional autoencoder: parameter counts, shapes, padding, seeding."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from diffusability.errors import StudyError
from diffusability.nn.initialisation import initialise
from diffusability.nn.layers import group_norm
from diffusability.study.entries.network import ConvNetwork
from diffusability.tokenizers.conv import AttentionBlock, ConvAutoencoder, Downsample, Upsample
from tests.unit.networks import conv

FULL = {"width": 128, "multipliers": (1, 1, 2, 2, 4), "encoder_blocks": 2, "decoder_blocks": 3}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(**changes) -> ConvAutoencoder:
    return conv(**changes).initialise(seeded())


@pytest.mark.parametrize(("channels", "millions"), [(16, 69.61), (32, 69.84), (64, 70.29)])
def test_full_width_has_the_parameters_of_the_paper(channels, millions):
    network = conv(3, channels, **FULL)
    assert next(network.parameters()).is_meta
    assert network.factor == 16
    assert count(network) / 1e6 == pytest.approx(millions, abs=0.005)


def test_full_width_encoder_and_decoder_split():
    network = conv(3, 32, **FULL)
    encoder = count(network.encoder) + count(network.encoder_out) + count(network.to_moments)
    assert encoder / 1e6 == pytest.approx(28.41, abs=0.01)
    assert (count(network) - encoder) / 1e6 == pytest.approx(41.42, abs=0.005)


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (2, 1, 3)])
@pytest.mark.parametrize("cells", [(3, 5), (4, 4), (1, 7)])
def test_any_size_that_the_factor_divides(multipliers, cells):
    network = tiny(image_channels=3, latent_channels=5, multipliers=multipliers)
    factor = 2 ** (len(multipliers) - 1)
    assert network.factor == factor
    images = torch.randn(2, 3, factor * cells[0], factor * cells[1], generator=seeded())
    posterior = network.encode(images)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 5, *cells)
    assert network.decode(posterior.mean).shape == images.shape


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(StudyError, match="15x16 pixels"):
        tiny().encode(torch.zeros(1, 1, 15, 16))
    with pytest.raises(StudyError, match="3 channels"):
        tiny().encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(StudyError, match="no tokens to mask"):
        tiny().encode(torch.zeros(1, 1, 16, 16), torch.zeros(1, 8, 8, dtype=torch.bool))
    with pytest.raises(ValidationError, match="factor 4 needs 3 multipliers"):
        ConvNetwork(arch="conv", factor=4, multipliers=(1, 2))


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (256, 32), (512, 32), (32, 8), (16, 4), (20, 5), (6, 1)]
)
def test_group_rule(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_downsampling_pads_right_and_bottom_only():
    layer = Downsample(1)
    initialise(layer, seeded())
    layer.conv.weight.data.zero_()
    layer.conv.bias.data.zero_()
    layer.conv.weight.data[0, 0, 0, 0] = 1.0  # picks the upper left pixel of each window
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(layer(images), images[:, :, ::2, ::2])
    layer.conv.weight.data[0, 0] = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 1.0]])
    assert layer(images).flatten().tolist() == [10.0, 0.0, 0.0, 0.0]


def test_upsampling_repeats_pixels():
    layer = Upsample(1)
    initialise(layer, seeded())
    layer.conv.weight.data.zero_()
    layer.conv.bias.data.zero_()
    layer.conv.weight.data[0, 0, 1, 1] = 1.0
    images = torch.arange(4.0).view(1, 1, 2, 2)
    expected = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(layer(images), expected)


def test_attention_equals_a_loop_over_positions():
    layer = AttentionBlock(8).double()
    initialise(layer, seeded())
    x = torch.randn(2, 8, 2, 3, generator=seeded(1), dtype=torch.float64)
    out = layer(x)
    normed = functional.group_norm(x, 2, layer.norm.weight, layer.norm.bias, 1e-6)
    flat = normed.flatten(2)
    for image in range(2):
        query, key, value = (
            weight.weight[:, :, 0, 0] @ flat[image] + weight.bias[:, None]
            for weight in (layer.query, layer.key, layer.value)
        )
        for position in range(6):
            weights = torch.softmax(query[:, position] @ key / 8**0.5, dim=0)
            mixed = layer.out.weight[:, :, 0, 0] @ (value @ weights) + layer.out.bias
            expected = x[image, :, position // 3, position % 3] + mixed
            found = out[image, :, position // 3, position % 3]
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_equal_seeds_give_equal_weights_and_no_global_state_is_used():
    state = torch.get_rng_state()
    first, second = (conv(1, 4, 8, (1, 2), 2, 3).initialise(seeded(3)) for _ in range(2))
    other = conv(1, 4, 8, (1, 2), 2, 3).initialise(seeded(4))
    assert torch.equal(state, torch.get_rng_state())
    for (name, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right), name
    assert not torch.equal(first.encoder_out.weight, other.encoder_out.weight)


def test_default_weights_are_uniform_within_the_fan_in_bound():
    weight = conv(1, 4, 32, (1, 2)).initialise(seeded()).encoder_out.weight
    bound = (64 * 9) ** -0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_saved_weights_can_be_assigned_to_a_network_that_was_never_drawn():
    source = tiny()
    copy = conv(1, 4, 8, (1, 2), 1, 1)
    copy.load_state_dict(source.state_dict(), assign=True)
    images = torch.randn(1, 1, 8, 8, generator=seeded())
    assert torch.equal(copy.encode(images).mean, source.encode(images).mean)


def test_last_weights_are_where_gradients_are_compared():
    network = tiny()
    assert network.encoder_last_weight.shape == (8, 16, 3, 3)
    assert network.decoder_last_weight.shape == (1, 8, 3, 3)


def test_images_of_a_batch_do_not_influence_each_other():
    network = tiny().double()
    images = torch.randn(3, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    together = network.decode(network.encode(images).mean)
    alone = network.decode(network.encode(images[1:2]).mean)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-12, atol=1e-12)
