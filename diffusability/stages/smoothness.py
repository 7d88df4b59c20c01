"""Stage `smoothness`: spectra of cached latents."""

from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.metrics.smoothness import measure_smoothness
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents
from diffusability.study.metrics import SmoothnessMetric


def make(job: Job, folder: Path) -> None:
    """Write measurements.json."""
    spec = SmoothnessMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    latents = open_latents(job, data)[data.split(spec.split)]
    write_measurements(folder, measure_smoothness(latents.mean))
