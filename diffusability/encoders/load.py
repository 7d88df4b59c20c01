"""Encoders from their study entries and from their artifacts."""

from pathlib import Path

from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.data.images import ImageSet
from diffusability.encoders.convnet import ConvEncoder
from diffusability.encoders.interface import Encoder
from diffusability.encoders.vision import load_vision_encoder
from diffusability.study.encoder import SupervisedEncoder, VisionEncoder


def build_encoder(spec: SupervisedEncoder, data: ImageSet) -> ConvEncoder:
    """Return the network of an encoder entry; `data` gives image channels and classes."""
    return ConvEncoder(
        image_channels=data.images.shape[1],
        width=spec.width,
        features=spec.features,
        factor=spec.factor,
        num_classes=data.num_classes,
    )


def load_encoder(folder: Path, data: ImageSet, device: str) -> Encoder:
    """Return the encoder of a verified artifact, frozen, in evaluation mode."""
    entry, state = read_card(folder)["spec"], load_file(folder / "model.safetensors")
    if entry["kind"] == "vision":
        vision = VisionEncoder.model_validate(entry)
        return load_vision_encoder(vision.model, state, data.images.shape[-1]).to(device)
    model = build_encoder(SupervisedEncoder.model_validate(entry), data)
    model.load_state_dict(state)
    return model.to(device).eval().requires_grad_(False)
