"""What a stage is given: inputs that are opened when it first asks for them, device, and seeds."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusability.artifacts.bulk import check_bulk
from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, to_uint8
from diffusability.data.load import job_dataset
from diffusability.encoders.interface import Encoder
from diffusability.encoders.load import load_encoder
from diffusability.errors import StudyError
from diffusability.latents.mapped import MappedLatents
from diffusability.latents.shards import Encode, LatentShards
from diffusability.nn.chunks import chunks, joined
from diffusability.statistics import require_finite
from diffusability.study.entries.tokenizer import TOKENIZER_SOURCES, EncodingSpec
from diffusability.study.metrics.metric_group import UNUSED_MASKS
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.load import load_tokenizer, stored_latents
from diffusability.tokenizers.perceptual import FeaturePerceptual, LpipsPerceptual
from diffusability.training.images import TrainingImages

logger = logging.getLogger(__name__)


class Inputs:
    """The inputs of one job, verified, each opened once; its device and its random streams.

    Attributes:
        job: what is made: its name, state folder and time.
        device: on which it is made.
    """

    def __init__(self, job: Job) -> None:
        """Open nothing yet."""
        self.job, self.device = job, torch.device(job.device)
        self._verified: dict[str, Path] = {}

    @property
    def stage(self) -> str:
        """Name of the stage; of a stage that measures, that of its metric group."""
        return self.job.stage

    def __contains__(self, role: str) -> bool:
        """Return whether the artifact is made from something in this role."""
        return role in self.job.upstream

    def folder(self, role: str) -> Path:
        """Return the folder of the upstream artifact with this role.

        Raises:
            ArtifactError: it is missing, altered, or not what the job was planned for.
        """
        if role not in self._verified:  # every file is hashed for it
            self._verified[role] = self.job.input(role)
        return self._verified[role]

    def of(self, what: str, role: str) -> str:
        """Return what it is and the path of the network that made it, for messages."""
        return f"{what} of {self.job.upstream[role]['path']}"

    def json(self, role: str, name: str) -> Any:
        """Return the content of a JSON file of what is upstream in a role."""
        return json.loads((self.folder(role) / name).read_text())

    def stream(self, use: str) -> int:
        """Return the seed of one use of randomness."""
        return self.job.stream(use)

    def generator(self, use: str) -> torch.Generator:
        """Return a generator on the CPU, seeded for one use of randomness."""
        return torch.Generator().manual_seed(self.stream(use))

    @cached_property
    def data(self) -> ImageSet:
        """The dataset."""
        return job_dataset(self.job)

    @cached_property
    def latents(self) -> MappedLatents:
        """The latents, on disk until they are indexed.

        Raises:
            ArtifactError: shards were evicted, or are of other latents; the message has the remedy.
        """
        return self._open_latents().read()

    def foreground(self, chosen: Tensor) -> tuple[Tensor | None, tuple[str, ...]]:
        """Return the (n, h, w) share of foreground of the cells of chosen latents, and flags.

        None without masks, and for tokens: they have no position that a mask could be of.
        """
        if not self.data.masked:
            return None, ()
        if read_card(self.folder("tokenizer"))["spec"].get("layout") == "tokens":
            return None, (UNUSED_MASKS,)
        return self.latents.foreground[chosen], ()

    def rounding(self, chosen: Tensor) -> tuple[str, ...]:
        """Return a flag where the means of chosen latents are stored in half precision."""
        rounded = self.latents.mean.rounded_to(chosen)
        return () if rounded is None else (f"latents rounded to {rounded}".replace("torch.", ""),)

    @property
    def encodes(self) -> bool:
        """Whether the tokenizer is a network; else its latents are on disk, one per image."""
        source = read_card(self.folder("tokenizer"))["spec"].get("source")
        return source is None or TOKENIZER_SOURCES[source].encodes

    @cached_property
    def checked_latents(self) -> MappedLatents:
        """The latents, whose shards another process of the job hashes when it reads them."""
        return self._open_latents().read(hashed=False)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, frozen, on the job's device."""
        return self._new_tokenizer()

    def _new_tokenizer(self) -> Tokenizer:
        folder, places = self.folder("tokenizer"), self._tokenizer_places
        return load_tokenizer(folder, self.data, self.job.device, places)

    @property
    def _tokenizer_places(self) -> Mapping[str, Any]:
        """Where the files of a tokenizer that was not trained are now."""
        places: Mapping[str, Any] = self.job.upstream["tokenizer"].get("local", {})
        return places

    @torch.no_grad()
    def decode(self, latents: Tensor, what: str) -> Tensor:
        """Return (B, C, H, W) uint8 images on the CPU, a few decoded at a time.

        Args:
            latents: (B, d, h, w).
            what: the images are, for messages, such as "reconstructions".

        Raises:
            MeasurementError: an image is not finite.
        """
        pixels = latents.shape[-2:].numel() * self.tokenizer.factor**2
        name = self.of(what, "tokenizer")
        decoded = [
            to_uint8(self.tokenizer.decode(part.to(self.device)), name).cpu()
            for part in chunks(latents, pixels)
        ]
        return joined(decoded)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of (B, C, H, W) images; see `encode_with`."""
        return encode_with(self.tokenizer, images, self.device)

    def encoder(self, role: str) -> Encoder:
        """Return the encoder in a role, frozen, on the job's device."""
        return load_encoder(self.folder(role), self.data, self.job.device)

    @property
    def perceptual(self) -> LpipsPerceptual | FeaturePerceptual | None:
        """The perceptual distance of a training: LPIPS, in-study features, or none."""
        if "perceptual" not in self:
            return None
        folder = self.folder("perceptual")
        name = folder.parent.name
        if read_card(folder)["spec"]["kind"] == "lpips":
            logger.info("%s: the perceptual distance is LPIPS, `%s`", self.job.name, name)
            return self.lpips("perceptual")
        logger.info("%s: the perceptual distance compares features of `%s`", self.job.name, name)
        return FeaturePerceptual(self.encoder("perceptual").feature_maps)

    def lpips(self, role: str) -> LpipsPerceptual:
        """Return the LPIPS distance in a role, on the job's device."""
        return LpipsPerceptual.load(self.folder(role) / "model.safetensors").to(self.device)

    def ensure_latents(self, spec: EncodingSpec) -> MappedLatents:
        """Return the latents that the job makes, encoding with its tokenizer what is missing."""
        shards = _shards(self.job.path, self.data, spec)
        dtype = getattr(torch, spec.dtype)
        val_means = None if spec.val_means is None else getattr(torch, spec.val_means)
        stored = stored_latents(self.folder("tokenizer"), self._tokenizer_places)
        if stored is not None:
            if spec.flip:
                raise StudyError("encoding.flip: latents on disk have no mirrored images")
            numbered = replace(self.data, images=stored.numbers)
            shards.ensure(numbered, lambda: stored, spec.batch, dtype, val_means)
            return shards.read()

        def encode() -> Encode:  # with a tokenizer that is freed once all is encoded
            return _encode_with(self._new_tokenizer(), self.device, self.of("latents", "tokenizer"))

        shards.ensure(self.data, encode, spec.batch, dtype, val_means)
        return shards.read()

    def _open_latents(self) -> LatentShards:
        folder = self.folder("latents")
        encoding = EncodingSpec.model_validate(read_card(folder)["spec"])
        shards = _shards(folder, self.data, encoding)
        check_bulk(folder, len(shards.missing()), len(shards))
        return shards


def training_images(inputs: Inputs) -> TrainingImages:
    """Return the images of the train split, cropped at random where the dataset says so."""
    data = inputs.data
    return TrainingImages(data, data.split("train"), inputs.job.device, inputs.stream("crops"))


def _shards(artifact: Path, data: ImageSet, spec: EncodingSpec) -> LatentShards:
    return LatentShards(artifact, len(data.labels), spec.shard, spec.flip)


@torch.no_grad()
def encode_with(
    tokenizer: Tokenizer, images: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance, (B, d, h, w) float32 on the CPU, a few encoded at a time.

    Args:
        tokenizer: frozen, on the device.
        images: (B, C, H, W), in [-1, 1].
        device: on which they are encoded.
    """
    posteriors = [tokenizer.encode(part.to(device)) for part in chunks(images)]
    mean = joined([posterior.mean.float().cpu() for posterior in posteriors])
    return mean, joined([posterior.logvar.float().cpu() for posterior in posteriors])


def _encode_with(tokenizer: Tokenizer, device: torch.device, what: str) -> Encode:
    @torch.no_grad()
    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = encode_with(tokenizer, images, device)
        require_finite(mean, what)
        require_finite(logvar, f"log-variances of {what}")
        return mean, logvar

    return encode
