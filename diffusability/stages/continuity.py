"""Stage `continuity`: are images decoded between neighbouring latents still real? (iFID)"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.artifacts.tensors import write_tensors
from diffusability.data.images import to_uint8
from diffusability.data.load import load_dataset
from diffusability.latents.channel_statistics import channel_statistics, denormalise, normalise
from diffusability.latents.mapped import NormalisedLatents
from diffusability.metrics.continuity import measure_interpolation_frechet
from diffusability.metrics.nearest_neighbours import nearest_neighbours
from diffusability.stages.features import BATCH, Extractor
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents, open_tokenizer
from diffusability.study.metrics import ContinuityMetric


def make(job: Job, folder: Path) -> None:
    """Write measurements.json and the neighbours that were found."""
    spec = ContinuityMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    latents = open_latents(job, data)
    asked, offered = data.split(spec.split), data.split(spec.pool)
    statistics = channel_statistics(latents.mean, offered)
    queries = normalise(latents.mean[asked], statistics)  # (n, C, h, w)
    # ImageNet's training latents, the usual pool, are 42 GB: they stay on disk
    pool = NormalisedLatents(latents.mean, offered, statistics)  # (m, C, h, w)
    table = nearest_neighbours(
        queries.to(job.device),
        pool,
        neighbours=spec.neighbours,
        distance=spec.distance,
        exclude_self=spec.split == spec.pool,
        query_labels=latents.labels[asked] if spec.same_class else None,
        pool_labels=latents.labels[offered] if spec.same_class else None,
    ).cpu()
    tokenizer = open_tokenizer(job, data)
    extractor = Extractor(job, spec.extractor, data)
    originals = extractor.of_dataset(data, asked).vectors

    @torch.no_grad()
    def decode(interpolated: Tensor) -> Tensor:
        images = tokenizer.decode(denormalise(interpolated, statistics).to(job.device))
        return to_uint8(images).cpu()

    measurement = measure_interpolation_frechet(
        queries,
        pool,
        table,
        decode=decode,
        extract=lambda images: extractor(images).vectors,
        reference=extractor.moments(originals),
        originals=originals,
        generator=torch.Generator().manual_seed(job.stream("neighbours")),
        alpha=spec.alpha,
        interpolation=spec.interpolation,
        choice=spec.choice,
        batch_size=BATCH,
    )
    write_tensors(folder / "neighbours.safetensors", table.to_tensors(), table.to_metadata())
    options = measurement.options | {"normalise": True}
    write_measurements(folder, [replace(measurement, options=options)])
