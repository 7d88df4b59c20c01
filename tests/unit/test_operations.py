"""Counted parameters and operations against the real networks and the published figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusability.diffusion.load import build_diffusion
from diffusability.diffusion.transformer import LightningDiT, SiT
from diffusability.diffusion.unet import LatentUNet
from diffusability.encoders.convnet import ConvEncoder
from diffusability.study.entries import operations
from diffusability.study.entries.backbone import (
    Backbone,
    LightningDiTBackbone,
    SiTBackbone,
    UNetBackbone,
)
from diffusability.study.entries.network import (
    ConvNetwork,
    HierarchicalNetwork,
    Network,
    VectorNetwork,
    VitNetwork,
)
from diffusability.study.entries.operations import (
    autoencoder,
    backbone,
    discriminator,
    trained_encoder,
    vgg16,
    vision_model,
)
from diffusability.study.entries.trained_encoder import SupervisedEncoder
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.tokenizers.build import build_tokenizer
from diffusability.tokenizers.discriminator import PatchDiscriminator

TRAIN = {"steps": 1}
SMALL_CONV = ConvNetwork(
    arch="conv", factor=4, channels=5, width=8, multipliers=(1, 2, 4), decoder_blocks=2
)
HIERARCHY = HierarchicalNetwork(
    arch="hierarchical", factor=2, levels=(2, 4, 8), channels=3, width=8
)
NETWORKS = [
    (ConvNetwork(arch="conv"), 256),
    (ConvNetwork(arch="conv", channels=64), 256),
    (SMALL_CONV, 32),
    (SMALL_CONV.model_copy(update={"attention": False, "encoder_blocks": 1}), 16),
    (VitNetwork(arch="vit"), 256),
    (VitNetwork(arch="vit", factor=4, channels=6, width=48, depth=2, heads=3), 32),
    (VectorNetwork(arch="vector", factor=8, channels=3, width=8, multipliers=(1, 2, 4)), 32),
    (VectorNetwork(arch="vector", factor=4, channels=1, width=6, multipliers=(1,)), 8),
    (HIERARCHY, 32),
    (HIERARCHY.model_copy(update={"factor": 4}), 32),
    (HIERARCHY.model_copy(update={"factor": 8, "blocks": 2}), 16),
    (HierarchicalNetwork(arch="hierarchical", factor=2, levels=(1, 2), channels=2, width=8), 8),
]
SIT = {"arch": "sit", "train": TRAIN}
LIGHTNING = {"arch": "lightningdit", "train": TRAIN}
UNET = {"arch": "unet", "train": TRAIN}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def macs(module: nn.Module, *inputs: torch.Tensor, method: str = "forward") -> int:
    """Count the products of one call on the meta device; nothing is computed."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        getattr(module.to("meta"), method)(*(x.to("meta") for x in inputs))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("network", "side"), NETWORKS)
def test_autoencoders(network: Network, side: int) -> None:
    module = build_tokenizer(network, 3, side)
    counted = autoencoder(network, 3, side)
    grid = side // network.factor
    assert counted.whole.parameters == parameters(module)
    assert counted.encoder.macs == macs(module, torch.empty(1, 3, side, side), method="encode")
    latents = torch.empty(1, network.channels, grid, grid)
    assert counted.decoder.macs == macs(module, latents, method="decode")


def test_published_autoencoder() -> None:
    counted = autoencoder(ConvNetwork(arch="conv"), 3, 256)
    assert counted.whole.parameters == pytest.approx(69.84e6, abs=0.005e6)
    assert counted.encoder.macs == pytest.approx(69e9, abs=0.5e9)
    assert counted.decoder.macs == pytest.approx(126e9, abs=0.5e9)
    pair = autoencoder(VitNetwork(arch="vit"), 3, 256)
    assert pair.whole.parameters == pytest.approx(171.7e6, abs=0.1e6)


@pytest.mark.parametrize(
    "spec",
    [
        SiTBackbone(**SIT, width=48, depth=2, heads=3),
        SiTBackbone(**SIT, width=48, depth=1, heads=3, patch=2),
        LightningDiTBackbone(**LIGHTNING, width=48, depth=2, heads=3),
        SiTBackbone(**SIT, width=48, depth=2, heads=3, process="edm"),
        UNetBackbone(**UNET, width=16, multipliers=(1, 2, 3), blocks=2, attention=(8, 2)),
        UNetBackbone(**UNET, width=8, multipliers=(2,), blocks=1, attention=(), process="edm"),
    ],
)
def test_backbones(spec: Backbone) -> None:
    network = build_diffusion(spec, (4, 8, 8), 10).network
    assert isinstance(network, SiT | LightningDiT | LatentUNet)
    counted = backbone(spec, 4, 8, 10)
    assert counted.parameters == parameters(network)
    label = torch.zeros(1, dtype=torch.long)
    assert counted.macs == macs(network, torch.empty(1, 4, 8, 8), torch.empty(1), label)


@pytest.mark.parametrize(
    ("kind", "size", "channels", "millions", "giga"),
    [
        (SIT, "B", 32, 130.53, 22.95),
        (SIT, "XL", 64, 675.23, 118.4),
        (LIGHTNING, "B", 64, 130.61, 22.95),
        (LIGHTNING, "XL", 32, 675.26, 118.4),
    ],
)
def test_published_backbones(
    kind: dict[str, object], size: str, channels: int, millions: float, giga: float
) -> None:
    model = SiTBackbone if kind["arch"] == "sit" else LightningDiTBackbone
    spec = model.model_validate({**kind, "size": size})
    counted = backbone(spec, channels, 16, 1000)
    frozen = 256 * spec.width  # the published counts include the fixed positions
    assert counted.parameters + frozen == pytest.approx(millions * 1e6, abs=0.01e6)
    # the published operations leave out the ends and the modulation, one token an image
    assert counted.macs == pytest.approx(giga * 1e9, rel=5e-3)


def test_size_of_the_ffhq_unet() -> None:
    # EDM's 61.8 M and 5.1 M more, as the noise scales besides shifting (see `test_unet`)
    counted = backbone(UNetBackbone.model_validate(UNET), 3, 64, 0)
    assert counted.parameters == pytest.approx(66.93e6, abs=0.005e6)
    network = LatentUNet(UNetBackbone.model_validate(UNET), (3, 64, 64), 0).to("meta")
    label = torch.zeros(1, dtype=torch.long)
    assert counted.macs == macs(network, torch.empty(1, 3, 64, 64), torch.empty(1), label)


def test_encoders() -> None:
    spec = SupervisedEncoder(kind="supervised", width=8, features=12, factor=4, train=TRAIN)
    module = ConvEncoder(spec, 3, 10)
    counted = trained_encoder(spec, 3, 32, 10)
    assert counted.parameters == parameters(module)
    assert counted.macs == macs(module, torch.empty(1, 3, 32, 32))


def test_discriminator() -> None:
    module = PatchDiscriminator(ObjectiveSpec(), 3)
    counted = discriminator(ObjectiveSpec(gan=0.5), 3, 256)
    assert counted.parameters == parameters(module) == pytest.approx(2.77e6, abs=0.01e6)
    assert counted.macs == macs(module, torch.empty(2, 3, 256, 256)) // 2


def test_published_networks() -> None:
    assert vgg16(224).macs == pytest.approx(15.35e9, rel=1e-3)
    assert vgg16(224).parameters == 14_714_688
    assert vision_model("dinov2-b", 256).parameters == pytest.approx(86.6e6, rel=0.02)
    assert vision_model("mae-l", 256).parameters == pytest.approx(303.3e6, rel=0.02)
    assert vision_model("clip-l", 256).macs == pytest.approx(81e9, rel=0.02)


def test_counts_are_made_once_and_read_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "diffusability" / operations.FILE
    program = (
        "import sys; from diffusability.study.entries.network import ConvNetwork; "
        "from diffusability.study.entries.operations import autoencoder; "
        "network = ConvNetwork(arch='conv', factor=4, width=8, multipliers=(1, 2, 4)); "
        "print(autoencoder(network, 3, 32).whole.macs, 'torch' in sys.modules)"
    )

    def run() -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()

    first, again = run(), run()
    assert (first[1], again[1]) == ("True", "False")
    assert first[0] == again[0]
    (kept,) = json.loads(file.read_text()).values()
    assert sum(macs for _, macs in kept) == int(first[0])


def test_a_damaged_file_of_counts_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = SiTBackbone(**SIT, width=24, depth=1, heads=2)
    file = tmp_path / "diffusability" / operations.FILE
    file.parent.mkdir()
    counts = []
    for text in ("{", "[]", '{"other": 1}'):
        file.write_text(text)
        operations._remembered.cache_clear()
        backbone.cache_clear()
        counts.append(backbone(spec, 4, 8, 10))
        assert isinstance(json.loads(file.read_text()), dict)
    backbone.cache_clear()
    operations._remembered.cache_clear()
    assert counts == counts[:1] * 3


def test_counts_of_other_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = SiTBackbone(**SIT, width=24, depth=1, heads=2)
    for digest in ("one", "two"):
        monkeypatch.setattr(operations, "code_digest", lambda digest=digest: digest)
        backbone.cache_clear()
        backbone(spec, 4, 8, 10)
    backbone.cache_clear()
    assert len(json.loads((tmp_path / "diffusability" / operations.FILE).read_text())) == 2
