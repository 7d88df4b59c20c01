"""Tokenizers and their regularizers from study entries, and from artifacts."""

from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.data.images import ImageSet
from diffusability.errors import StudyError
from diffusability.study.linear_tokenizer import LINEAR_SOURCES
from diffusability.study.linear_tokenizer import LinearTokenizer as LinearSpec
from diffusability.study.network import NETWORKS, ImageShape, Network, NetworkSpec
from diffusability.study.regularizer import REGULARIZERS
from diffusability.study.tokenizer import TokenizerSpec
from diffusability.tokenizers.external import load_autoencoder
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.linear import build_linear
from diffusability.tokenizers.regularizers.interface import Regularizer


def build_tokenizer(spec: Network, image_channels: int, size: int) -> Tokenizer:
    """Return the network of an entry for images of `size` pixels; its weights are not yet drawn.

    Raises:
        StudyError: the network does not fit the size of the images.
    """
    for key, reason in spec.misfits(size):
        raise StudyError(f"network {spec.arch}: {key}: {reason}")
    network: Tokenizer = NETWORKS.code(spec)(spec, ImageShape(image_channels, size))
    return network


def build_regularizer(spec: TokenizerSpec, feature_channels: int | None) -> Regularizer:
    """Return the regularizer of an entry; `feature_channels` are those of its encoder, if any.

    Raises:
        TypeError: what the entry's method is declared with is no regularizer of a training step.
    """
    code = REGULARIZERS.code(spec.regularizer)
    if not (isinstance(code, type) and issubclass(code, Regularizer)):
        raise TypeError(f"method {spec.regularizer.method} is trained by a stage of its own")
    return code(spec.regularizer, spec.network.channels, feature_channels or 0)


def load_tokenizer(folder: Path, data: ImageSet, device: str) -> Tokenizer:
    """Return the tokenizer of a verified artifact, frozen, in evaluation mode.

    Raises:
        StudyError: the artifact is of a source that is not known here.
    """
    spec = read_card(folder)["spec"]
    source = spec.get("source")
    image_channels, size = data.images.shape[1], data.images.shape[-1]
    tokenizer: Tokenizer
    if source in LINEAR_SOURCES:
        tokenizer = build_linear(LinearSpec.model_validate(spec), image_channels, size)
        tokenizer.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    elif source == "diffusers":
        tokenizer = load_autoencoder(folder, image_channels)
    elif source in (None, "level"):  # trained here, or a level of one that was
        # the encoder entered the artifact by its fingerprint; the network does not depend on it
        tokenizer = build_tokenizer(tokenizer_network(spec["network"]), image_channels, size)
        tokenizer.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    else:
        known = ", ".join(("diffusers", "level", *LINEAR_SOURCES))
        raise StudyError(f"{folder}: unknown source `{source}` of a tokenizer; known: {known}")
    return tokenizer.to(device).eval().requires_grad_(False)


def tokenizer_network(values: dict[str, object]) -> Network:
    """Return the typed network of an entry from its plain values."""
    network: Network = TypeAdapter(NetworkSpec).validate_python(values)
    return network
