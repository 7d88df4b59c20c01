"""Open the inputs that several stages share: tokenizers and latents."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.encoders.load import load_encoder
from diffusability.latents.mapped import MappedLatents
from diffusability.latents.shards import Encode, LatentShards
from diffusability.study.tokenizer import EncodingSpec
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.load import load_tokenizer
from diffusability.tokenizers.perceptual import FeaturePerceptual, LpipsPerceptual

logger = logging.getLogger(__name__)


def open_latents(job: Job, data: ImageSet, checked: bool = False) -> MappedLatents:
    """Return the latents upstream of a job; evicted shards are encoded again.

    They stay on disk: index them with the images of a split to have those in memory. Shards that
    another process of the job has `checked` are not hashed once more.
    """
    folder = job.input("latents")
    spec = EncodingSpec.model_validate(read_card(folder)["spec"])
    fingerprint = job.upstream["latents"]["fingerprint"]
    if checked:
        return _shards(fingerprint, data, spec).read()
    return ensure_latents(job, spec, fingerprint, data)


def ensure_latents(job: Job, spec: EncodingSpec, fingerprint: str, data: ImageSet) -> MappedLatents:
    """Return the latents of all images, encoding with the job's tokenizer what is missing."""
    shards = _shards(fingerprint, data, spec)

    def encode() -> Encode:
        return _encoder(load_tokenizer(job.input("tokenizer"), data, job.device), job.device)

    shards.ensure(data, encode, spec.batch, getattr(torch, spec.dtype))
    return shards.read()


def _shards(fingerprint: str, data: ImageSet, spec: EncodingSpec) -> LatentShards:
    return LatentShards(fingerprint, len(data.labels), spec.shard, spec.flip)


def open_tokenizer(job: Job, data: ImageSet) -> Tokenizer:
    """Return the tokenizer upstream of a job, frozen, on the job's device."""
    return load_tokenizer(job.input("tokenizer"), data, job.device)


def open_perceptual(job: Job, data: ImageSet) -> LpipsPerceptual | FeaturePerceptual | None:
    """Return the perceptual distance of a job: LPIPS, in-study features, or none."""
    if "perceptual" not in job.upstream:
        return None
    folder = job.input("perceptual")
    name = Path(job.upstream["perceptual"]["path"]).parent.name
    if read_card(folder)["spec"]["kind"] == "lpips":
        logger.info("%s: the perceptual distance is LPIPS, `%s`", job.name, name)
        return LpipsPerceptual.load(folder / "model.safetensors").to(torch.device(job.device))
    logger.info("%s: the perceptual distance compares features of `%s`", job.name, name)
    return FeaturePerceptual(load_encoder(folder, data, job.device).feature_maps)


def _encoder(tokenizer: Tokenizer, device: str) -> Encode:
    @torch.no_grad()
    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = tokenizer.encode(images.to(device))
        return posterior.mean.float().cpu(), posterior.logvar.float().cpu()

    return encode
