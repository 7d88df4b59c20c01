"""Stages of the metric groups that are statistics of cached latents, on CPU cores."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from diffusability.artifacts.atomic import write_json
from diffusability.data.images import to_float
from diffusability.metrics.fisher import measure_fisher
from diffusability.metrics.geometry import Spectrum, measure_spectra, measure_stretch
from diffusability.metrics.latent_set import classes_of_enough
from diffusability.metrics.sample_fisher import PixelCurves, pixel_curves
from diffusability.metrics.spatial import measure_spatial
from diffusability.metrics.uniformity import measure_uniformity
from diffusability.stages.inputs import Inputs
from diffusability.stages.measurements import write_measurements
from diffusability.study.class_sizes import LEAST_FISHER
from diffusability.study.metrics import FisherMetric, GeometryMetric
from diffusability.study.perspectives import SpatialMetric, UniformityMetric
from diffusability.tokenizers.serpentine import to_vector


def spatial(inputs: Inputs, spec: SpatialMetric, out: Path) -> None:
    """Write measurements.json."""
    chosen, latents = inputs.data.split(spec.split), inputs.latents
    if inputs.data.masked:
        write_measurements(out, measure_spatial(latents.mean[chosen], latents.foreground[chosen]))
        return
    without = ["spatial.srss", "spatial.srss_raw"]
    reason = "the dataset has no masks"
    write_measurements(
        out, measure_spatial(latents.mean[chosen], None), [(metric, reason) for metric in without]
    )


def uniformity(inputs: Inputs, spec: UniformityMetric, out: Path) -> None:
    """Write measurements.json."""
    measurements = measure_uniformity(
        inputs.latents.mean[inputs.data.split(spec.split)],
        seed=inputs.stream("repeats") % 2**31,  # scikit-learn takes 32 bits
        points=spec.points,
        repeats=spec.repeats,
        perplexity=spec.perplexity,
        iterations=spec.iterations,
        n_jobs=int(os.environ["OMP_NUM_THREADS"]),
    )
    write_measurements(out, measurements)


def geometry(inputs: Inputs, spec: GeometryMetric, out: Path) -> None:
    """Write measurements.json and spectra.csv."""
    split = inputs.data.split(spec.split)
    chosen = split[torch.randperm(len(split), generator=inputs.generator("images"))[: spec.images]]
    images = to_float(inputs.data.images[chosen])  # (N, C, H, W)
    mean = inputs.latents.mean[chosen]  # (N, d, h, w)
    stretch, unstretched = measure_stretch(images, mean)
    order = inputs.generator("order")
    slopes, unsloped, spectra = measure_spectra(mean, to_vector(mean), order)
    write_measurements(out, [*stretch, *slopes], [*unstretched, *unsloped])
    _write_spectra(spectra, out / "spectra.csv")


def _write_spectra(spectra: Sequence[Spectrum], path: Path) -> None:
    """Write one row per frequency; power 1 is that of white noise."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["order", "permuted", "frequency", "power", "stderr"])
        for spectrum in spectra:
            columns = (spectrum.frequency, spectrum.power, spectrum.stderr)
            for values in zip(*(column.tolist() for column in columns), strict=True):
                rows.writerow([spectrum.order, int(spectrum.permuted), *values])


def fisher(inputs: Inputs, spec: FisherMetric, out: Path) -> None:
    """Write measurements.json, including metrics that are not applicable to the latent space."""
    chosen, latents = inputs.data.split(spec.split), inputs.latents
    measurements, without = measure_fisher(
        latents.mean[chosen],
        latents.labels[chosen],
        PixelCurves.from_json(inputs.json("pixels", "curves.json")) if "pixels" in inputs else None,
        spec.variances,
        seed=inputs.stream("mixture") % 2**31,
        blocks=spec.blocks,
        samples=spec.samples,
        smallest_class=spec.smallest_class,
    )
    write_measurements(out, measurements, without)


def pixel_fisher(inputs: Inputs, spec: FisherMetric, out: Path) -> None:
    """Write curves.json: Fisher curves of the images themselves, which latents deviate from."""
    data = inputs.data
    chosen = data.split(spec.split)
    enough, _ = classes_of_enough(data.labels[chosen], LEAST_FISHER, spec.smallest_class)
    chosen = chosen[enough]
    curves = pixel_curves(
        data.images,
        chosen,
        data.labels[chosen],
        v=spec.variances,
        blocks=spec.blocks,
        samples=spec.samples,
        seed=inputs.stream("mixture") % 2**31,
    )
    write_json(out / "curves.json", curves.to_json())
