"""Every published extractor of distances against its definition, re-stated in tests/oracles.

Random weights, one block per network of FDr6; those run in bfloat16, which is switched off here.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diffusability.data.images import to_float
from diffusability.encoders.inception import import_inception, load_inception
from diffusability.encoders.packages import ensure_torchvision
from diffusability.encoders.representation import RepresentationModel, build_representation
from diffusability.study.entries.representations import REPRESENTATIONS, Representation
from diffusability.tokenizers.perceptual import LpipsPerceptual
from tests.oracles import convolutional
from tests.oracles import vision_transformers as oracle

ensure_torchvision()


def randomise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of about unit effect under the same names."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim >= 2 and "weight" in name and "grn" not in name:
            noise *= (2 / tensor[0].numel()) ** 0.5
        elif "norm" in name and name.endswith("weight"):
            noise = 1 + 0.1 * noise
        elif name.endswith("bias"):
            noise *= 0.1
        found[name] = noise
    return found


def defined(model: Representation, w: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Return the (1, F) feature of the definition."""
    patch = 14 if model in ("dinov2", "clip") else 16
    margin = -pixels.shape[-1] % patch
    pixels = functional.pad(pixels, (0, margin, 0, margin))  # to whole patches, with zeros
    match model:
        case "convnext":
            return convolutional.convnext_v2(w, pixels)
        case "siglip2":
            act = oracle.gelu_tanh
            options: dict[str, Any] = {"heads": 16, "final_norm": True, "prefix": ()}
            tokens = oracle.vit_tokens(w, pixels, activation=act, **options)
            return oracle.attention_pool(w, tokens, 16, act)
        case "dinov2" | "mae":
            return oracle.vit_tokens(w, pixels, heads=16, final_norm=True)[:, 0]
        case "clip":
            return oracle.vit_tokens(w, pixels, heads=16, final_norm=True, eps=1e-5)[:, 0]


@pytest.mark.parametrize("model", REPRESENTATIONS)
def test_features_of_fdr6(model: Representation, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = REPRESENTATIONS[model]
    depth = {"depths": (1, 1, 1, 1)} if model == "convnext" else {"depth": 1}
    network = build_representation(facts, **depth)
    state = randomise(network.state_dict())
    network.load_state_dict(state)
    encoder = RepresentationModel(facts, network)
    monkeypatch.setattr(torch, "autocast", lambda *_: nullcontext())
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    found = encoder.features(images)
    with torch.no_grad():
        expected = defined(model, state, encoder.preprocess(images))
    assert found.shape == expected.shape == (1, facts.channels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_inception(tmp_path: Path) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Random(module.FeatureExtractorInceptionV3):  # type: ignore[name-defined,misc]
        def load_state_dict(self, *_args: Any, **_options: Any) -> None:
            """Keep the random weights."""

    torch.save({}, tmp_path / "empty.pth")
    blank = Random("random", ["2048"], tmp_path / "empty.pth").state_dict()
    state = {n: t for n, t in blank.items() if not n.endswith("num_batches_tracked")}
    state = randomise(state)
    for name in state:
        if name.endswith("bn.weight") or name.endswith("running_var"):
            state[name] = 1 + 0.1 * state[name].abs()
        elif name.endswith("running_mean"):
            state[name] *= 0.1
    torch.save({**blank, **state}, tmp_path / "inception.pth")
    import_inception(tmp_path / "inception.pth", tmp_path / "model.safetensors")
    network = load_inception(tmp_path / "model.safetensors")
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    features, spatial = network.features_and_spatial(to_float(images))
    with torch.no_grad():
        expected, early = convolutional.inception(state, images.float())
    assert expected.std() > 0.01
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    wanted = early[:, :7].permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(spatial, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))


def test_lpips(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    widths, inner = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512), 3
    trunk = {}
    for layer, width in zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), widths, strict=True):
        noise = torch.randn(width, inner, 3, 3, generator=generator)
        trunk[f"features.{layer}.weight"] = noise * (2 / (9 * inner)) ** 0.5
        trunk[f"features.{layer}.bias"] = 0.1 * torch.randn(width, generator=generator)
        inner = width
    torch.save(trunk, tmp_path / "vgg16.pth")
    distance = LpipsPerceptual.from_vgg(tmp_path / "vgg16.pth")
    # (C, 1, 1) each, as the package ships them
    lins = [layer.model[-1].weight[0] for layer in distance.network.lins]
    a, b = torch.rand(2, 2, 3, 32, 32, generator=generator) * 2 - 1
    with torch.no_grad():
        found, expected = distance(a, b), convolutional.lpips(trunk, lins, a, b)
    assert expected.min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
