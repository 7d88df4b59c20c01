"""Tokenizers from their artifacts, whatever they were made from."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.study.core.merge import merge
from diffusability.study.entries.tokenizer import TOKENIZER_SOURCES, SourcedTokenizer
from diffusability.tokenizers.build import build_tokenizer, tokenizer_network
from diffusability.tokenizers.interface import Tokenizer

WEIGHTS = "model.safetensors"
NO_PLACES: Mapping[str, Any] = MappingProxyType({})

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


def stored_latents(folder: Path, places: Mapping[str, Any] = NO_PLACES) -> Any:
    """Return what finds latents by the images' numbers, of latents on disk; None of a network.

    See `tokenizers.stored.LatentRows` and, of `places`, `load_tokenizer`.
    """
    card = read_card(folder)
    return _made_source(card, places).stored(folder) if "source" in card["spec"] else None


def _made_source(card: Mapping[str, Any], places: Mapping[str, Any]) -> TokenizerSource[Any]:
    """Return the source of a tokenizer that was made, with its files where they are now."""
    now = {key: place for key, place in places.items() if place is not None}
    return tokenizer_source(merge(merge(card["spec"], card["local"]), now))


def tokenizer_source(entry: Mapping[str, Any]) -> TokenizerSource[Any]:
    """Return the source of a tokenizer entry, given as plain values.

    Raises:
        StudyError: no such source is declared.
    """
    spec = TOKENIZER_SOURCES[str(entry["source"])].model_validate(entry)
    source: TokenizerSource[Any] = TOKENIZER_SOURCES.code(spec)(spec)
    return source


def load_tokenizer(
    folder: Path, data: ImageSet, device: str, places: Mapping[str, Any] = NO_PLACES
) -> Tokenizer:
    """Return the tokenizer of a verified artifact, frozen, in evaluation mode.

    Args:
        folder: of the artifact.
        data: the images.
        device: of torch.
        places: where files are on this machine, as keys of the entry; where they were when the
            artifact was made, for keys that are not given.
    """
    card = read_card(folder)
    if "source" in card["spec"]:
        tokenizer = _made_source(card, places).load(folder, data)
    else:
        tokenizer = load_network(card["spec"]["network"], folder, data)
    return tokenizer.to(device).eval().requires_grad_(False)


def load_network(network: dict[str, object], folder: Path, data: ImageSet) -> Tokenizer:
    """Return a network of the project, given by its plain options, with its trained weights."""
    channels, side = data.images.shape[1], data.images.shape[-1]
    tokenizer = build_tokenizer(tokenizer_network(network), channels, side)
    tokenizer.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    return tokenizer
