"""The transformer autoencoder: parameter counts, positions, masking, seeding."""

import pytest
import torch
from pydantic import ValidationError

from diffusability.errors import StudyError
from diffusability.nn.attention import Attention, attend
from diffusability.nn.initialisation import initialise
from diffusability.nn.layers import SwiGLU
from diffusability.nn.positions import rotary_tables, rotate
from diffusability.study.entries.network import VitNetwork
from diffusability.tokenizers.vit import VitAutoencoder
from tests.unit.networks import vit

BASE = {"image_channels": 3, "latent_channels": 32, "patch": 16, "grid": 16}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def tiny(**changes) -> VitAutoencoder:
    return vit(**changes).initialise(seeded())


def test_the_base_pair_has_the_parameters_of_the_reference():
    base = vit(**BASE, width=768, depth=12, heads=12)
    assert count(base) / 1e6 == pytest.approx(171.7, abs=0.05)
    assert base.factor == 16


def test_the_large_pair_has_the_parameters_of_the_reference():
    large = vit(**BASE, width=1024, depth=24, heads=16)
    assert count(large) / 1e6 == pytest.approx(606.7, abs=0.05)


@pytest.mark.parametrize("cells", [(4, 4), (3, 5), (8, 1)])
def test_any_size_that_the_patch_divides(cells):
    network = tiny(image_channels=3, patch=4)
    images = torch.randn(2, 3, 4 * cells[0], 4 * cells[1], generator=seeded())
    posterior = network.encode(images)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 3, *cells)
    assert network.decode(posterior.mean).shape == images.shape


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(StudyError, match="7x8 pixels"):
        tiny().encode(torch.zeros(1, 1, 7, 8))
    with pytest.raises(ValidationError, match="multiple of 4"):
        VitNetwork(arch="vit", width=18, heads=3)
    with pytest.raises(StudyError, match="mask"):
        tiny().encode(torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, dtype=torch.bool))


def test_rotary_tables_by_hand():
    cosine, sine = rotary_tables((2, 3), 8, columns_first=False)  # frequencies 1 and 0.01
    rows = [[0.0, 0.0, column, 0.01 * column] for column in range(3)]
    rows += [[1.0, 0.01, column, 0.01 * column] for column in range(3)]
    angles = torch.tensor(rows, dtype=torch.float64)  # two pairs per axis, (6, 4)
    torch.testing.assert_close(cosine[:, 0], angles.cos().repeat(1, 2))
    torch.testing.assert_close(sine[:, 0], torch.cat([-angles.sin(), angles.sin()], 1))


def test_columns_come_first_where_asked_for():
    cosine, _ = rotary_tables((2, 3), 8, columns_first=True)
    assert cosine[1, 0, 0].item() == pytest.approx(torch.tensor(1.0).cos().item())  # column 1
    assert cosine[3, 0, 0].item() == 1.0  # row 1, column 0


def test_a_rotated_product_depends_on_the_distance_alone():
    tables = rotary_tables((5, 5), 8, columns_first=False)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=seeded(), dtype=torch.float64)
    everywhere = [
        rotate(vector.expand(1, 25, 1, 8), *tables)[0, :, 0].view(5, 5, 8)
        for vector in (query, key)
    ]
    products = torch.einsum("abc,dec->abde", *everywhere)
    torch.testing.assert_close(products[0, 0, 1, 2], products[3, 2, 4, 4])
    assert (products[0, 0, 1, 2] - products[0, 0, 2, 1]).abs() > 1e-3
    torch.testing.assert_close(everywhere[0].norm(dim=2), query.norm().expand(5, 5))


def test_attention_equals_a_loop_over_heads():
    layer = Attention(8, 2).double()
    initialise(layer, seeded(1))
    x = torch.randn(2, 3, 8, generator=seeded(), dtype=torch.float64)
    tables = rotary_tables((1, 3), 4, columns_first=False)
    found = layer(x, lambda heads: rotate(heads, *tables))
    angles = torch.tensor([[0.0, column] for column in range(3)], dtype=torch.float64)
    qkv = x @ layer.qkv.weight.T + layer.qkv.bias
    heads = []
    for head in range(2):
        parts = [qkv[..., 8 * part + 4 * head : 8 * part + 4 * head + 4] for part in range(3)]
        query, key = (
            torch.stack([turned(part[:, n], angles[n]) for n in range(3)], 1) for part in parts[:2]
        )
        weights = torch.softmax(query @ key.transpose(1, 2) / 2.0, dim=-1)
        heads.append(weights @ parts[2])
    expected = torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def turned(vector: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotate pairs (0, 2) and (1, 3) of (B, 4) vectors as complex numbers."""
    numbers = torch.complex(vector[:, :2], vector[:, 2:]) * torch.exp(1j * angles)
    return torch.cat([numbers.real, numbers.imag], 1)


def test_the_hidden_width_of_the_feed_forward_layer():
    layer = SwiGLU(768)
    assert layer.out.in_features == 2048
    assert layer.hidden.out_features == 4096


def test_latent_cells_and_image_patches_are_in_the_same_order():
    network = tiny()
    for half in (network.encoder, network.decoder):
        half.blocks = torch.nn.ModuleList()  # no mixing: a patch decides its own cell alone
    images = torch.randn(1, 1, 8, 6, generator=seeded())
    changed = images.clone()
    changed[:, :, 4:6, 0:2] += 1.0  # cell (2, 0)
    moved = (network.encode(changed).mean - network.encode(images).mean).abs().sum(1)[0]
    assert [tuple(cell) for cell in moved.nonzero().tolist()] == [(2, 0)]
    latents = network.encode(images).mean
    shifted = latents.clone()
    shifted[:, :, 2, 0] += 1.0
    difference = (network.decode(shifted) - network.decode(latents))[0, 0].abs() > 1e-9
    rows, columns = difference.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 6, 0, 2)  # 3x3 reach


def test_masked_tokens_are_replaced_and_the_token_is_trained():
    network = tiny()
    images = torch.randn(2, 1, 8, 8, generator=seeded())
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    changed = images.clone()
    changed[0, :, 2:4, 4:6] += 5.0  # under the mask: must not be seen
    hidden = network.encode(changed, mask).mean
    assert torch.equal(hidden, network.encode(images, mask).mean)
    assert not torch.equal(hidden[0], network.encode(images).mean[0])
    assert torch.equal(hidden[1], network.encode(images).mean[1])
    hidden.sum().backward()
    assert network.mask_token.value.grad.abs().sum() > 0


def test_a_full_mask_leaves_positions_only():
    network = tiny()
    images = torch.randn(2, 1, 8, 8, generator=seeded())
    latents = network.encode(images, torch.ones(2, 4, 4, dtype=torch.bool)).mean
    assert torch.equal(latents[0], latents[1])
    assert latents[0].flatten(1).std(1).min() > 0


def test_positions_interpolate_to_other_grids():
    network = tiny()
    table = network.encoder.positions
    assert torch.equal(table((4, 4)), table.table.flatten(2).transpose(1, 2))
    table.table.data = torch.linspace(0, 1, 4).view(1, 1, 4, 1).expand(1, 16, 4, 4).clone()
    longer = table((8, 3)).view(8, 3, 16)
    torch.testing.assert_close(longer[:, 0], longer[:, 2])
    assert (longer[1:, 0, 0] > longer[:-1, 0, 0]).all()


def test_equal_seeds_give_equal_weights_and_no_global_state_is_used():
    state = torch.get_rng_state()
    first, second = tiny(), tiny()
    assert torch.equal(state, torch.get_rng_state())
    for (name, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right), name


def test_weights_under_the_former_name_of_a_layer_are_read():
    source, copy = tiny(), vit()
    former = {
        name.replace("mlp.hidden", "mlp.gate_and_value"): value
        for name, value in source.state_dict().items()
    }
    copy.load_state_dict(former, assign=True)
    images = torch.randn(1, 1, 8, 8, generator=seeded())
    assert torch.equal(copy.encode(images).mean, source.encode(images).mean)


@pytest.mark.parametrize("trained", [True, False])
def test_attention_in_half_precision_is_that_of_single(trained):
    parts = torch.randn(3, 2, 3, 7, 8, generator=seeded()).bfloat16()
    expected = torch.nn.functional.scaled_dot_product_attention(*parts.double())
    found = attend(parts[0].float(), parts[1].float(), parts[2].requires_grad_(trained))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=2e-2)


def test_half_precision_runs_close_to_single():
    network = tiny()
    images = torch.randn(2, 1, 8, 8, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        posterior = network.encode(images)
        decoded = network.decode(posterior.mean)
    assert posterior.mean.dtype == torch.float32
    expected = network.decode(network.encode(images).mean)
    assert (decoded - expected).abs().max() < 0.03 * expected.abs().max() + 0.01
