"""Stage `semantics`: latent neighbour consistency and linear probing of cached latents."""

from pathlib import Path

import torch

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.metrics.semantics import measure_semantics
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents
from diffusability.study.metrics import SemanticsMetric


def make(job: Job, folder: Path) -> None:
    """Write measurements.json."""
    spec = SemanticsMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    latents = open_latents(job, data)[data.split(spec.split)]
    write_measurements(
        folder,
        measure_semantics(
            latents.mean,
            latents.labels,
            latents.foreground if data.masked else None,
            generator=torch.Generator().manual_seed(job.stream("folds")),
            neighbours=spec.neighbours,
        ),
    )
