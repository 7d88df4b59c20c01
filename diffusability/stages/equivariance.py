"""Stage `equivariance`: does encoding commute with rotation, scaling and flipping?"""

from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import in_batches, to_float
from diffusability.data.load import load_dataset
from diffusability.latents.channel_statistics import channel_statistics, normalise
from diffusability.metrics.equivariance import Transform, measure_equivariance
from diffusability.stages.features import BATCH
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents, open_tokenizer
from diffusability.study.metrics import EquivarianceMetric


def make(job: Job, folder: Path) -> None:
    """Write measurements.json; cells that a tokenizer cannot have are declared in it."""
    spec = EquivarianceMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    chosen = data.split(spec.split)
    tokenizer = open_tokenizer(job, data)
    statistics = channel_statistics(open_latents(job, data)[chosen].mean)

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        mean = tokenizer.encode(images.to(job.device)).mean  # (B, C, h, w)
        return normalise(mean.float().cpu(), statistics)

    transforms = [Transform("rotate", angle) for angle in spec.rotations]
    transforms += [Transform("scale", scale) for scale in spec.scales]
    transforms += [Transform("flip", 0)] if spec.flip else []
    batches = map(to_float, in_batches(data.images, chosen, BATCH))
    measurements, impossible = measure_equivariance(encode, batches, transforms=transforms)
    cells = [
        (f"equivariance.{cell}_{kind}", reason)
        for cell, reason in impossible
        for kind in ("error", "cosine")
    ]
    write_measurements(folder, measurements, cells)
