"""Stage `encoder`: train a small network on the study's images, or copy published weights."""

from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.encoders.load import encoder_kind


def make(job: Job, folder: Path) -> None:
    """Write model.safetensors and history.csv; of what is not trained it has no rows."""
    encoder_kind(job.options).make(job, folder)
