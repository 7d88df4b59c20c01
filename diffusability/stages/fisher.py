"""Stage `fisher`: Fisher geometry of cached latents from Gaussian and mixture fits."""

import json
from pathlib import Path

import torch

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.metrics.fisher import measure_fisher
from diffusability.metrics.stationary_fisher import StationaryCurves
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents
from diffusability.study.metrics import FisherMetric


def make(job: Job, folder: Path) -> None:
    """Write measurements.json; cells that a latent space cannot have are declared in it."""
    spec = FisherMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    latents = open_latents(job, data)[data.split(spec.split)]
    pixels = json.loads((job.input("pixels") / "curves.json").read_text())
    measurements, impossible = measure_fisher(
        latents.mean,
        latents.labels,
        StationaryCurves.from_json(pixels),
        spec.variances,
        generator=torch.Generator().manual_seed(job.stream("mixture")),
        blocks=spec.blocks,
        samples=spec.samples,
    )
    write_measurements(folder, measurements, impossible)
