"""Stage `uniformity`: how evenly single-pixel latents spread in a two-dimensional embedding."""

import os
from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.metrics.uniformity import measure_uniformity
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents
from diffusability.study.metrics import UniformityMetric


def make(job: Job, folder: Path) -> None:
    """Write measurements.json."""
    spec = UniformityMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    latents = open_latents(job, data)[data.split(spec.split)]
    measurements = measure_uniformity(
        latents.mean,
        seed=job.stream("repeats") % 2**31,  # scikit-learn takes 32 bits
        points=spec.points,
        repeats=spec.repeats,
        perplexity=spec.perplexity,
        iterations=spec.iterations,
        n_jobs=int(os.environ["OMP_NUM_THREADS"]),
    )
    write_measurements(folder, measurements)
