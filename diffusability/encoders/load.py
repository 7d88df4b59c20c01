"""Encoders from their study entries and from their artifacts, whatever their kind."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.encoders.interface import Encoder
from diffusability.errors import ArtifactError
from diffusability.study.core.merge import merge
from diffusability.study.entries.encoder import ENCODERS, EncoderEntry, PublishedEncoder
from diffusability.study.sources.content import content_digest

logger = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"
HISTORY = "history.csv"

Entry = TypeVar("Entry", bound=EncoderEntry)
Published = TypeVar("Published", bound=PublishedEncoder)


class EncoderKind(Generic[Entry]):
    """How the encoders of one kind are made once, and opened by every job that needs them."""

    def __init__(self, spec: Entry) -> None:
        """Take the entry of the study."""
        self.spec = spec

    def make(self, job: Job, folder: Path) -> None:
        """Write model.safetensors and history.csv into `folder`."""
        raise NotImplementedError(f"{type(self).__name__}: define make")

    def load(self, folder: Path, data: ImageSet) -> Encoder:
        """Return the encoder of an artifact's folder, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__}: define load")


class PublishedWeights(EncoderKind[Published]):
    """A kind whose weights come in a file: they are checked and copied, nothing is trained."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy what features depend on into a safetensors file, once it fits the network."""
        raise NotImplementedError(f"{type(self).__name__}: define copy")

    def make(self, job: Job, folder: Path) -> None:
        """Write the weights, and a history without rows.

        Raises:
            ArtifactError: the weight file is missing, damaged, of another network, or not the one
                that the job was planned for.
            StudyError: the package that holds the network is missing.
        """
        weights = self.spec.weight_file
        require_content(weights, job.spec.get("weights_content"))
        self.copy(weights, folder / WEIGHTS)
        logger.info("%s: copied %s", job.name, weights)
        (folder / HISTORY).write_text("step\n")


def require_content(file: Path, planned: str | None) -> None:
    """Refuse a file whose content is not what the job was planned for; None: it was not known.

    Raises:
        ArtifactError: the content has changed since.
    """
    found = content_digest(file)
    if planned is not None and found is not None and found != planned:
        raise ArtifactError(
            f"{file}: its content has changed since the study was planned. Start the workflow "
            "again; what is made from this file gets a new name then"
        )


def encoder_kind(entry: Mapping[str, Any]) -> EncoderKind[Any]:
    """Return the kind of an encoder entry, given as plain values.

    Raises:
        StudyError: no such kind is declared.
    """
    spec = ENCODERS[str(entry["kind"])].model_validate(entry)
    kind: EncoderKind[Any] = ENCODERS.code(spec)(spec)
    return kind


def load_encoder(folder: Path, data: ImageSet, device: str) -> Encoder:
    """Return the encoder of a verified artifact, frozen, in evaluation mode."""
    card = read_card(folder)
    kind = encoder_kind(merge(card["spec"], card["local"]))
    return kind.load(folder, data).to(device).eval().requires_grad_(False)
