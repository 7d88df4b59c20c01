"""Stage `velocity`: velocity irreducible variance of cached latents."""

from pathlib import Path

import torch

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.metrics.velocity import measure_velocity
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents
from diffusability.study.metrics import VelocityMetric


def make(job: Job, folder: Path) -> None:
    """Write measurements.json."""
    spec = VelocityMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    latents = open_latents(job, data)[data.split(spec.split)]
    generator = torch.Generator().manual_seed(job.stream("halves"))
    write_measurements(folder, measure_velocity(latents.mean, latents.labels, generator=generator))
