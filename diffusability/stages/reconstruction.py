"""Stage `reconstruction`: what a tokenizer loses, before any diffusion."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, in_batches, to_uint8
from diffusability.data.load import load_dataset
from diffusability.figures.image_grid import write_image_grid
from diffusability.latents.mapped import Latents
from diffusability.metrics.frechet import measure_frechet
from diffusability.metrics.reconstruction import measure_posterior, measure_reconstruction
from diffusability.stages.features import BATCH, Extractor
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents, open_tokenizer
from diffusability.study.metrics import ReconstructionMetric
from diffusability.tokenizers.interface import Tokenizer

PICTURED = 16


def make(job: Job, folder: Path) -> None:
    """Write measurements.json and reconstructions.png (originals above reconstructions)."""
    spec = ReconstructionMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    chosen = data.split(spec.split)
    latents = open_latents(job, data)[chosen]
    tokenizer = open_tokenizer(job, data)
    extractor = Extractor(job, spec.extractor, data)
    real, decoded = [], []  # (B, D) feature vectors

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for originals, reconstructions in reconstruct(tokenizer, data, chosen, latents, job.device):
            real.append(extractor(originals).vectors)
            decoded.append(extractor(reconstructions).vectors)
            yield originals, reconstructions

    fidelity = measure_reconstruction(pairs())
    frechet = measure_frechet(
        reference=extractor.moments(torch.cat(real)),
        generated=extractor.shard_moments(torch.cat(decoded)),
        stage="reconstruction",
    )
    moments = zip(latents.mean.split(BATCH), latents.logvar.split(BATCH), strict=True)
    write_measurements(folder, [*fidelity, *measure_posterior(moments), frechet])
    shown = next(reconstruct(tokenizer, data, chosen, latents, job.device, PICTURED))
    write_image_grid(folder / "reconstructions.png", torch.cat(shown), columns=PICTURED)


@torch.no_grad()
def reconstruct(
    tokenizer: Tokenizer,
    data: ImageSet,
    chosen: Tensor,
    latents: Latents,
    device: str,
    batch: int = BATCH,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and their reconstructions from posterior means, both (B, C, H, W) uint8.

    Args:
        tokenizer: that encoded the latents.
        data: the dataset.
        chosen: (n,) int64 images of it.
        latents: of the chosen images, in their order.
        device: that decodes.
        batch: images at a time.
    """
    images = in_batches(data.images, chosen, batch)
    for originals, z in zip(images, latents.mean.split(batch), strict=True):
        yield originals, to_uint8(tokenizer.decode(z.to(device))).cpu()
