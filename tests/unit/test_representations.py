"""The published networks of FDr6: preprocessing, the feature that is taken, weights from files.

The networks have random weights and one block: what is tested is what surrounds them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from diffusability.encoders import representation
from diffusability.encoders.packages import ensure_torchvision
from diffusability.encoders.representation import (
    RepresentationModel,
    build_representation,
    import_representation,
    load_representation,
)
from diffusability.errors import ArtifactError, StudyError
from diffusability.study.entries.encoder import RepresentationEncoder
from diffusability.study.entries.representations import REPRESENTATIONS, Representation

ensure_torchvision()

MODELS: tuple[Representation, ...] = tuple(REPRESENTATIONS)
# (1 - mean) / std of the three channels, by hand, for a white image
WHITE = {
    "convnext": (2.248908, 2.428571, 2.64),
    "dinov2": (2.248908, 2.428571, 2.64),
    "mae": (2.248908, 2.428571, 2.64),
    "siglip2": (1.0, 1.0, 1.0),
    "clip": (1.930336, 2.074884, 2.145897),
}


def shallow(name: str) -> dict[str, Any]:
    """Return options that leave one block of a network."""
    return {"depths": (1, 1, 1, 1)} if name == "convnext" else {"depth": 1}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> RepresentationModel:
    """Every network with one block."""
    torch.manual_seed(0)
    facts = REPRESENTATIONS[request.param]
    return RepresentationModel(facts, build_representation(facts, **shallow(request.param)))


def name_of(model: RepresentationModel) -> str:
    return next(name for name, facts in REPRESENTATIONS.items() if facts is model.facts)


def test_preprocessing_by_hand(model: RepresentationModel) -> None:
    side = model.facts.input_side
    wanted = torch.tensor(WHITE[name_of(model)]).view(3, 1, 1).expand(2, 3, side, side)
    for white in (torch.ones(2, 3, side, side), torch.ones(2, 1, 32, 32)):
        torch.testing.assert_close(model.preprocess(white), wanted, rtol=0, atol=5e-6)
    images = torch.rand(2, 3, 300, 300) * 2 - 1
    resized = functional.interpolate((images + 1) / 2, (side, side), mode="bicubic", antialias=True)
    torch.testing.assert_close(model.preprocess(images), (resized - model.mean) / model.std)


def test_features_are_the_networks_own(model: RepresentationModel) -> None:
    """Against timm's own pooling in bfloat16; ConvNeXt's head would normalise too."""
    images = torch.rand(2, 3, 256, 256) * 2 - 1
    found = model.features(images)
    assert found.shape == (2, model.facts.channels)
    assert found.dtype == torch.float32
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pixels = model.preprocess(images)
        if model.facts.feature == "spatial mean":
            expected = model.network.forward_features(pixels).mean((2, 3))
        else:
            expected = model.network(pixels)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=0)
    assert model.logits(found).shape == (2, 0)
    with pytest.raises(StudyError, match="no feature map"):
        model.grid(images)


def test_weights_come_from_a_file_and_another_networks_are_refused(
    model: RepresentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, build = name_of(model), representation.build_representation
    monkeypatch.setattr(
        representation, "build_representation", lambda facts: build(facts, **shallow(name))
    )
    published, artifact = tmp_path / "model.safetensors", tmp_path / "artifact.safetensors"
    state = {n: t.contiguous() for n, t in model.network.state_dict().items()}
    save_file(state | {"head.bias": torch.zeros(3)}, published)
    import_representation(name, published, artifact)  # type: ignore[arg-type]
    again = load_representation(name, load_file(artifact))  # type: ignore[arg-type]
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(again.features(images), model.features(images))
    lost = next(n for n in state if n.startswith(("blocks.0.", "stages.0.")))
    save_file({n: t for n, t in state.items() if n != lost}, published)
    with pytest.raises(ArtifactError, match=rf"weights of {name}: they do not fit .*missing"):
        import_representation(name, published, artifact)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=rf"weights of {name}: not at"):
        import_representation(name, tmp_path / "no.safetensors", artifact)  # type: ignore[arg-type]


def test_what_a_study_needs() -> None:
    entry = RepresentationEncoder.model_validate({"kind": "representation", "model": "clip"})
    (need,) = entry.needs()
    assert "models--timm--vit_large_patch14_clip_224.openai" in str(need.path)
    assert entry.packages() == ("timm",)
    assert entry.uses == {"features"}
    assert "weights" not in entry.canonical()
