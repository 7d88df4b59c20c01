"""Stage `geometry`: does encoding keep distances, and what spectra do latents have?"""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from diffusability.artifacts.job import Job
from diffusability.data.images import to_float
from diffusability.data.load import load_dataset
from diffusability.metrics.geometry import Spectrum, measure_spectra, measure_stretch
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents
from diffusability.study.metrics import GeometryMetric
from diffusability.tokenizers.serpentine import to_vector


def make(job: Job, folder: Path) -> None:
    """Write measurements.json and spectra.csv."""
    spec = GeometryMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    split = data.split(spec.split)
    generator = torch.Generator().manual_seed(job.stream("images"))
    chosen = split[torch.randperm(len(split), generator=generator)[: spec.images]]
    images = to_float(data.images[chosen])  # (N, C, H, W)
    latents = open_latents(job, data)[chosen].mean  # (N, d, h, w)
    stretch, unstretched = measure_stretch(images, latents)
    order = torch.Generator().manual_seed(job.stream("order"))
    slopes, unsloped, spectra = measure_spectra(latents, to_vector(latents), order)
    write_measurements(folder, [*stretch, *slopes], [*unstretched, *unsloped])
    _write_spectra(spectra, folder / "spectra.csv")


def _write_spectra(spectra: Sequence[Spectrum], path: Path) -> None:
    """Write one row a frequency; power 1 is that of white noise."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["order", "permuted", "frequency", "power", "stderr"])
        for spectrum in spectra:
            columns = (spectrum.frequency, spectrum.power, spectrum.stderr)
            for values in zip(*(column.tolist() for column in columns), strict=True):
                rows.writerow([spectrum.order, int(spectrum.permuted), *values])
