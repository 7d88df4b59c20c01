"""Tokenizers from their artifacts, whatever they were made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.study.merge import merge
from diffusability.study.tokenizer import TOKENIZER_SOURCES, SourcedTokenizer
from diffusability.tokenizers.build import build_tokenizer, tokenizer_network
from diffusability.tokenizers.interface import Tokenizer

WEIGHTS = "model.safetensors"

Entry = TypeVar("Entry", bound=SourcedTokenizer)


class TokenizerSource(Generic[Entry]):
    """How untrained tokenizers of one source are made once, and opened by every job."""

    def __init__(self, spec: Entry) -> None:
        """Take the entry of the study."""
        self.spec = spec

    def make(self, job: Job, folder: Path) -> None:
        """Write model.safetensors into `folder`, and what else `load` needs."""
        raise NotImplementedError(f"{type(self).__name__}: define make")

    def load(self, folder: Path, data: ImageSet) -> Tokenizer:
        """Return the tokenizer of an artifact's folder, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__}: define load")

    def stored(self, folder: Path) -> Any:
        """Return what finds latents by the images' numbers, where they are on disk; else None."""
        return None


def stored_latents(folder: Path) -> Any:
    """Return what finds latents by the images' numbers, of latents on disk; None of a network.

    See `tokenizers.stored.LatentRows`.
    """
    card = read_card(folder)
    if "source" not in card["spec"]:
        return None
    return tokenizer_source(merge(card["spec"], card["local"])).stored(folder)


def tokenizer_source(entry: Mapping[str, Any]) -> TokenizerSource[Any]:
    """Return the source of a tokenizer entry, given as plain values.

    Raises:
        StudyError: no such source is declared.
    """
    spec = TOKENIZER_SOURCES[str(entry["source"])].model_validate(entry)
    source: TokenizerSource[Any] = TOKENIZER_SOURCES.code(spec)(spec)
    return source


def load_tokenizer(folder: Path, data: ImageSet, device: str) -> Tokenizer:
    """Return the tokenizer of a verified artifact, frozen, in evaluation mode."""
    card = read_card(folder)
    if "source" in card["spec"]:
        source = tokenizer_source(merge(card["spec"], card["local"]))
        tokenizer = source.load(folder, data)
    else:
        tokenizer = load_network(card["spec"]["network"], folder, data)
    return tokenizer.to(device).eval().requires_grad_(False)


def load_network(network: dict[str, object], folder: Path, data: ImageSet) -> Tokenizer:
    """Return a network of the project, given by its plain options, with its trained weights."""
    channels, side = data.images.shape[1], data.images.shape[-1]
    tokenizer = build_tokenizer(tokenizer_network(network), channels, side)
    tokenizer.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    return tokenizer
