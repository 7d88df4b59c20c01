"""Encoders from their study entries and from their artifacts."""

from pathlib import Path

from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.data.images import ImageSet
from diffusability.encoders.convnet import ConvEncoder
from diffusability.encoders.inception import load_inception
from diffusability.encoders.interface import Encoder
from diffusability.study.encoder import SupervisedEncoder


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
    if read_card(folder)["spec"]["kind"] == "inception":
        return load_inception(folder / "model.safetensors").to(device)
    spec = SupervisedEncoder.model_validate(read_card(folder)["spec"])
    model = build_encoder(spec, data)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device).eval().requires_grad_(False)
