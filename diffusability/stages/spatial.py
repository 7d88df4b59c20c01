"""Stage `spatial`: spatial structure of cached latents."""

from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.metrics.spatial import measure_spatial
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents
from diffusability.study.metrics import SpatialMetric


def make(job: Job, folder: Path) -> None:
    """Write measurements.json."""
    spec = SpatialMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    latents = open_latents(job, data)[data.split(spec.split)]
    if data.masked:
        write_measurements(folder, measure_spatial(latents.mean, latents.foreground))
        return
    without = ["spatial.srss", "spatial.srss_raw"]
    reason = "the dataset has no masks"
    write_measurements(
        folder, measure_spatial(latents.mean, None), [(metric, reason) for metric in without]
    )
