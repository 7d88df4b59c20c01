"""Stage `pixel_fisher`: Fisher curves of the images themselves, which latents deviate from."""

from pathlib import Path

from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.metrics.stationary_fisher import stationary_curves
from diffusability.study.metrics import FisherMetric


def make(job: Job, folder: Path) -> None:
    """Write curves.json."""
    spec = FisherMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    chosen = data.split(spec.split)
    curves = stationary_curves(
        data.images, chosen, data.labels[chosen], v=spec.variances, blocks=spec.blocks
    )
    write_json(folder / "curves.json", curves.to_json())
