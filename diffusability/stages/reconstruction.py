"""Stage `reconstruction`: what a tokenizer loses, before any diffusion."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, to_float, to_uint8
from diffusability.data.load import load_dataset
from diffusability.encoders.load import load_encoder
from diffusability.figures.image_grid import write_image_grid
from diffusability.latents.channel_statistics import channel_statistics, normalise
from diffusability.latents.shards import Latents
from diffusability.metrics.alignment import fit_alignment, measure_alignment
from diffusability.metrics.frechet import measure_frechet
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.reconstruction import (
    measure_lpips,
    measure_posterior,
    measure_reconstruction,
)
from diffusability.stages.features import BATCH, Extractor
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents, open_tokenizer
from diffusability.study.metrics import ReconstructionMetric
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.perceptual import LpipsPerceptual
from diffusability.tokenizers.posterior import LOGVAR_RANGE
from diffusability.tokenizers.regularizers.alignment import latent_features

PICTURED = 16
FITTED = 10_000  # training images that the map of the alignment cosine is fitted on, at most
LPIPS_BATCH = 32  # VGG-16 at full resolution needs about 0.2 GB an image pair
KL = "reconstruction.kl"


def make(job: Job, folder: Path) -> None:
    """Write measurements.json and reconstructions.png (originals above reconstructions)."""
    spec = ReconstructionMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    chosen = data.split(spec.split)
    everything = open_latents(job, data)
    latents = everything[chosen]
    originals = data.images[chosen]  # (n, C, H, W) uint8
    decoded = decode(open_tokenizer(job, data), latents, job.device)
    extractor = Extractor(job, spec.extractor, data)
    frechet = measure_frechet(
        reference=extractor.moments(extractor(originals).vectors),
        generated=extractor.shard_moments(extractor(decoded).vectors),
        stage="reconstruction",
    )
    posterior, impossible = _posterior(latents)
    found = [*measure_reconstruction(_pairs(originals, decoded, BATCH)), *posterior, frechet]
    if "lpips" in job.upstream:
        found.append(_lpips(job, originals, decoded))
    if "alignment" in job.upstream:
        found.append(_alignment(job, data, everything, spec))
    write_measurements(folder, found, impossible)
    pictured = torch.cat([originals[:PICTURED], decoded[:PICTURED]])
    write_image_grid(folder / "reconstructions.png", pictured, columns=PICTURED)


def _pairs(originals: Tensor, decoded: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(originals.split(size), decoded.split(size), strict=True)


def _posterior(latents: Latents) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Return what the posterior says, and what a deterministic encoder's cannot."""
    moments = zip(latents.mean.split(BATCH), latents.logvar.split(BATCH), strict=True)
    found = measure_posterior(moments)
    if bool((latents.logvar > LOGVAR_RANGE[0]).any()):
        return found, []
    reason = "the encoder is deterministic, its divergence is infinite"
    return [m for m in found if m.metric != KL], [(KL, reason)]


@torch.no_grad()
def _lpips(job: Job, originals: Tensor, decoded: Tensor) -> Measurement:
    """Return the LPIPS of the 8-bit reconstructions."""
    distance = LpipsPerceptual.load(job.input("lpips") / "model.safetensors")
    distance.to(torch.device(job.device))
    pairs = (
        (to_float(original).to(job.device), to_float(found).to(job.device))
        for original, found in _pairs(originals, decoded, LPIPS_BATCH)
    )
    return measure_lpips(pairs, distance)


def _alignment(
    job: Job, data: ImageSet, latents: Latents, spec: ReconstructionMetric
) -> Measurement:
    """Return the alignment with the encoder that the tokenizer was trained to agree with."""
    encoder = load_encoder(job.input("alignment"), data, job.device)
    train = data.split("train")
    generator = torch.Generator().manual_seed(job.stream("alignment"))
    fitted = train[torch.randperm(len(train), generator=generator)[:FITTED]]
    statistics = channel_statistics(latents[fitted].mean)

    @torch.no_grad()
    def pairs(indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for part in indices.split(BATCH):
            z = normalise(latents[part].mean, statistics)  # (B, d, h, w)
            features = encoder.grid(to_float(data.images[part]).to(job.device)).cpu()
            yield z, latent_features(features, z, "alignment cosine")

    flags = () if spec.split == "val" else ("in-sample",)
    return measure_alignment(pairs(data.split(spec.split)), fit_alignment(pairs(fitted)), flags)


@torch.no_grad()
def decode(tokenizer: Tokenizer, latents: Latents, device: str) -> Tensor:
    """Return the (n, C, H, W) uint8 reconstructions from posterior means."""
    parts = [to_uint8(tokenizer.decode(z.to(device))).cpu() for z in latents.mean.split(BATCH)]
    return torch.cat(parts)
