"""Networks and regularizers of tokenizers from study entries."""

from pydantic import TypeAdapter

from diffusability.errors import StudyError
from diffusability.study.entries.network import NETWORKS, ImageShape, Network, NetworkSpec
from diffusability.study.entries.regularizer import REGULARIZERS, Gpe
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.tokenizers.interface import Tokenizer
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
        TypeError: what the entry's method is declared with gives no regularizer of a training step.
    """
    method = spec.regularizer.method
    if isinstance(spec.regularizer, Gpe):
        raise TypeError(f"method {method} is trained by a stage of its own")
    code = REGULARIZERS.code(spec.regularizer)
    found = code(spec.regularizer, spec.network.channels, feature_channels or 0)
    if not isinstance(found, Regularizer):
        raise TypeError(f"method {method}: its code gives a {type(found).__name__}")
    return found


def tokenizer_network(values: dict[str, object]) -> Network:
    """Return the typed network of an entry from its plain values."""
    network: Network = TypeAdapter(NetworkSpec).validate_python(values)
    return network
