"""Stage `reconstruction`: what a tokenizer loses, before any diffusion."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, in_batches, to_float, to_uint8
from diffusability.data.load import load_dataset
from diffusability.encoders.load import load_encoder
from diffusability.figures.image_grid import write_image_grid
from diffusability.latents.channel_statistics import channel_statistics, normalise
from diffusability.latents.mapped import Latents, MappedLatents
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
    tokenizer = open_tokenizer(job, data)
    extractor = Extractor(job, spec.extractor, data)
    distance = _lpips(job) if "lpips" in job.upstream else None
    real, decoded = [], []  # (B, D) feature vectors
    distances: list[Tensor] = []  # (B,) LPIPS
    pictured: list[Tensor] = []  # originals and reconstructions of the first images

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        """Decode every image once, for all that is measured of it."""
        for pair in reconstruct(tokenizer, data, chosen, latents, job.device):
            features = [extractor(images).vectors for images in pair]
            real.append(features[0])
            decoded.append(features[1])
            if distance is not None:
                distances.append(_distances(distance, *pair, job.device))
            if not pictured:
                pictured.extend(images[:PICTURED] for images in pair)
            yield pair

    fidelity = measure_reconstruction(pairs())
    frechet = measure_frechet(
        reference=extractor.moments(torch.cat(real)),
        generated=extractor.shard_moments(torch.cat(decoded)),
        stage="reconstruction",
    )
    posterior, impossible = _posterior(latents)
    found = [*fidelity, *posterior, frechet]
    if distances:
        found.append(measure_lpips(torch.cat(distances)))
    if "alignment" in job.upstream:
        found.append(_alignment(job, data, everything, spec))
    write_measurements(folder, found, impossible)
    write_image_grid(folder / "reconstructions.png", torch.cat(pictured), columns=PICTURED)


def _posterior(latents: Latents) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Return what the posterior says, and what a deterministic encoder's cannot."""
    moments = zip(latents.mean.split(BATCH), latents.logvar.split(BATCH), strict=True)
    found = measure_posterior(moments)
    if bool((latents.logvar > LOGVAR_RANGE[0]).any()):
        return found, []
    reason = "the encoder is deterministic, its divergence is infinite"
    return [m for m in found if m.metric != KL], [(KL, reason)]


def _lpips(job: Job) -> LpipsPerceptual:
    distance = LpipsPerceptual.load(job.input("lpips") / "model.safetensors")
    distance.to(torch.device(job.device))
    return distance


@torch.no_grad()
def _distances(
    lpips: LpipsPerceptual, originals: Tensor, reconstructions: Tensor, device: str
) -> Tensor:
    """Return the (B,) LPIPS of uint8 images (B, C, H, W), a few at a time."""
    parts = zip(originals.split(LPIPS_BATCH), reconstructions.split(LPIPS_BATCH), strict=True)
    return torch.cat(
        [lpips(to_float(a.to(device)), to_float(b.to(device))).cpu() for a, b in parts]
    )


def _alignment(
    job: Job, data: ImageSet, latents: MappedLatents, spec: ReconstructionMetric
) -> Measurement:
    """Return the alignment with the encoder that the tokenizer was trained to agree with."""
    encoder = load_encoder(job.input("alignment"), data, job.device)
    train = data.split("train")
    generator = torch.Generator().manual_seed(job.stream("alignment"))
    fitted = train[torch.randperm(len(train), generator=generator)[:FITTED]]
    statistics = channel_statistics(latents[fitted].mean)

    @torch.no_grad()
    def pairs(indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        batches = in_batches(data.images, indices, BATCH)
        for part, images in zip(indices.split(BATCH), batches, strict=True):
            z = normalise(latents[part].mean, statistics)  # (B, d, h, w)
            features = encoder.grid(to_float(images.to(job.device))).cpu()
            yield z, latent_features(features, z, "alignment cosine")

    flags = () if spec.split == "val" else ("in-sample",)
    return measure_alignment(pairs(data.split(spec.split)), fit_alignment(pairs(fitted)), flags)


@torch.no_grad()
def reconstruct(
    tokenizer: Tokenizer,
    data: ImageSet,
    chosen: Tensor,
    latents: Latents,
    device: str,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and their reconstructions from posterior means, both (B, C, H, W) uint8.

    Args:
        tokenizer: that encoded the latents.
        data: the dataset.
        chosen: (n,) int64 images of it.
        latents: of the chosen images, in their order.
        device: that decodes.
    """
    images = in_batches(data.images, chosen, BATCH)
    for originals, z in zip(images, latents.mean.split(BATCH), strict=True):
        yield originals, to_uint8(tokenizer.decode(z.to(device))).cpu()
