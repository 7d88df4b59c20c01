"""One way to draw weights: from a generator, for every network, without global random state."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from diffusability.diffusion.transformer import LightningDiT, SiT
from diffusability.diffusion.unet import LatentUNet
from diffusability.encoders.contrastive import ContrastiveNetwork
from diffusability.encoders.masked import MaskedAutoencoder
from diffusability.fisher.toy_networks import ResidualMLP
from diffusability.nn.initialisation import SeededModule, initialise
from diffusability.study.entries.backbone import BACKBONES
from diffusability.study.entries.network import NETWORKS
from diffusability.study.fisher_toy import ToyNetwork
from tests.unit import networks

SMALL = {"width": 16, "depth": 1, "heads": 2}
TOY = {"arch": "tiny", "inputs": "identity", "points": 4, "train": {"steps": 1}}
BUILDERS: dict[str, Callable[[], SeededModule]] = {
    "conv": networks.conv,
    "vit": networks.vit,
    "vector": lambda: networks.vector(1, 8, 2, 4, 8, (1, 2)),
    "hierarchical": lambda: networks.hierarchical((1, 2), 1),
    "sit": lambda: networks.diffusion(SiT, 2, (4, 4), 3, None, **SMALL),
    "lightningdit": lambda: networks.diffusion(LightningDiT, 2, (4, 4), 3, None, **SMALL),
    "unet": lambda: networks.diffusion(
        LatentUNet, 2, (4, 4), 3, None, width=8, multipliers=(1, 2), blocks=1, attention=(4,)
    ),
    "encoder": lambda: networks.encoder(1, 8, 8, 2, 3),
    "contrastive": lambda: ContrastiveNetwork(
        networks.encoder_spec("contrastive"), networks.encoder(1, 8, 8, 2, 0)
    ),
    "masked": lambda: MaskedAutoencoder(
        networks.encoder_spec("masked"), networks.encoder(1, 8, 8, 2, 0), 1
    ),
    "discriminator": lambda: networks.discriminator(1, 8, 2),
    "toy": lambda: ResidualMLP(2, ToyNetwork.model_validate(TOY), 1.0),
    "repa": lambda: networks.regularizer("repa", 3, 4, hidden=8),
    "mcos": lambda: networks.regularizer("mcos", 3, 4),
    "lmr": lambda: networks.regularizer("lmr", 3),
}


def test_every_declared_network_is_among_them() -> None:
    assert {*NETWORKS, *BACKBONES} <= set(BUILDERS)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_weights_come_from_the_generator_alone(build: Callable[[], SeededModule]) -> None:
    state = torch.get_rng_state()
    first, again, other = build(), build(), build()
    assert all(p.is_meta for p in first.parameters())
    for network, seed in ((first, 3), (again, 3), (other, 4)):
        assert network.initialise(torch.Generator().manual_seed(seed)) is network
    assert torch.equal(torch.get_rng_state(), state)
    tensors = [*first.named_parameters(), *first.named_buffers()]
    assert all(t.device.type == "cpu" and t.isfinite().all() for _, t in tensors)
    equal = dict([*again.named_parameters(), *again.named_buffers()])
    assert all(torch.equal(t, equal[name]) for name, t in tensors)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_saved_weights_take_the_place_of_a_draw(build: Callable[[], SeededModule]) -> None:
    source, copy = build().initialise(torch.Generator().manual_seed(3)), build()
    copy.load_state_dict(source.state_dict(), assign=True)
    tensors = [*copy.named_parameters(), *copy.named_buffers()]
    assert not any(t.is_meta for _, t in tensors)  # tables that are never saved are there too
    expected = dict([*source.named_parameters(), *source.named_buffers()])
    assert all(torch.equal(t, expected[name]) for name, t in tensors)


def test_a_second_draw_keeps_what_is_allocated() -> None:
    network = networks.conv().initialise(torch.Generator().manual_seed(3))
    weight = network.decoder_out.weight
    network.initialise(torch.Generator().manual_seed(4))
    assert network.decoder_out.weight is weight


def test_a_layer_that_no_rule_covers_is_refused() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(2))

    with pytest.raises(TypeError, match="Scale holds parameters but defines no fill"):
        initialise(nn.Sequential(nn.Linear(2, 2), Scale()), torch.Generator())
