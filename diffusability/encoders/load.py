"""Encoders from their study entries and from their artifacts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.data.images import ImageSet
from diffusability.encoders.convnet import ConvEncoder
from diffusability.encoders.inception import load_inception
from diffusability.encoders.interface import Encoder
from diffusability.encoders.pretext import Spec
from diffusability.encoders.representation import load_representation
from diffusability.encoders.vision import load_vision_encoder
from diffusability.study.encoder import (
    RepresentationEncoder,
    SupervisedEncoder,
    VisionEncoder,
)

_TRAINED: TypeAdapter[Spec] = TypeAdapter(Annotated[Spec, Field(discriminator="kind")])


def trained_spec(values: Mapping[str, Any]) -> Spec:
    """Return the typed entry of an encoder that the study trains itself."""
    return _TRAINED.validate_python(dict(values))


def build_encoder(spec: Spec, data: ImageSet) -> ConvEncoder:
    """Return the network of an encoder entry; `data` gives image channels and classes.

    Only one that was trained to name classes has class logits.
    """
    classes = data.num_classes if isinstance(spec, SupervisedEncoder) else 0
    return ConvEncoder(spec, data.images.shape[1], classes)


def load_encoder(folder: Path, data: ImageSet, device: str) -> Encoder:
    """Return the encoder of a verified artifact, frozen, in evaluation mode."""
    entry, weights = read_card(folder)["spec"], folder / "model.safetensors"
    if entry["kind"] == "inception":
        return load_inception(weights).to(device)
    state = load_file(weights)
    if entry["kind"] == "vision":
        vision = VisionEncoder.model_validate(entry)
        return load_vision_encoder(vision.model, state, data.images.shape[-1]).to(device)
    if entry["kind"] == "representation":
        space = RepresentationEncoder.model_validate(entry).model
        return load_representation(space, state).to(device)
    model = build_encoder(trained_spec(entry), data)
    model.load_state_dict(state, assign=True)
    return model.to(device).eval().requires_grad_(False)
