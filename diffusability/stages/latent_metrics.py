"""Stages of the metric groups that are statistics of cached latents, on CPU cores."""

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.atomic import write_json
from diffusability.data.images import Rows, in_batches, thinned, to_float
from diffusability.latents.mapped import ChosenLatents
from diffusability.latents.shards import pool_masks
from diffusability.metrics.fisher import measure_fisher
from diffusability.metrics.fisher_curves import PixelCurves
from diffusability.metrics.geometry import Spectrum, measure_spectra, measure_stretch
from diffusability.metrics.latent_set import classes_of_enough
from diffusability.metrics.measurement import flagged
from diffusability.metrics.sample_fisher import pixel_curves
from diffusability.metrics.semantics import measure_semantics
from diffusability.metrics.spatial import measure_spatial
from diffusability.metrics.uniformity import measure_uniformity
from diffusability.stages.inputs import Inputs
from diffusability.stages.measurements import Found
from diffusability.study.metrics.groups import FisherMetric, GeometryMetric
from diffusability.study.metrics.perspectives import (
    SemanticsMetric,
    SpatialMetric,
    UniformityMetric,
)
from diffusability.study.preflight.class_sizes import LEAST_FISHER
from diffusability.tokenizers.posterior import LOGVAR_RANGE
from diffusability.tokenizers.serpentine import to_vector

BLOCK_BYTES = 256 * 2**20  # of training latents in memory at a time
MASKS = 256  # decoded at a time


def semantics(inputs: Inputs, spec: SemanticsMetric, out: Path) -> Found:
    """Return class neighbourhoods and the probe; see `measure_semantics`."""
    chosen, latents = inputs.data.split(spec.split), inputs.latents
    foreground, flags = inputs.foreground(chosen)
    measurements, without = measure_semantics(
        latents.mean[chosen],
        latents.labels[chosen],
        foreground,
        generator=inputs.generator("folds"),
        neighbours=spec.neighbours,
        smallest_class=spec.smallest_class,
        training=_probe_training(inputs, spec),
        tested=inputs.data.validation[chosen],
    )
    return flagged(measurements, *flags, *inputs.rounding(chosen)), without


def _probe_training(inputs: Inputs, spec: SemanticsMetric) -> tuple[Tensor, Tensor] | None:
    """Return what a linear probe learns from, (n, C) means over the grid and (n,) labels.

    None: the probe is cross-validated, as no validation images are measured, or none were held out.
    """
    train = inputs.data.split("train")
    if spec.probe == "folds" or spec.split == "train":
        return None
    if not len(train) or not len(inputs.data.split("val")):
        return None
    train = thinned(train, spec.probe_images, inputs.data.labels[train])
    latents = inputs.latents
    rows = max(1, BLOCK_BYTES // (8 * latents.mean.shape[1:].numel()))
    means = [latents.mean[part].double().mean(dim=(2, 3)) for part in train.split(rows)]
    return torch.cat(means), latents.labels[train]


def spatial(inputs: Inputs, spec: SpatialMetric, out: Path) -> Found:
    """Return spatial structure; see `measure_spatial`."""
    data, latents = inputs.data, inputs.latents
    chosen = data.split(spec.split)
    if data.masked:
        mean, undecided = latents.mean[chosen], None
        if data.undecided is not None:
            undecided = _pooled(data.undecided, chosen, mean.shape[-2:])
        measurements, without = measure_spatial(mean, latents.foreground[chosen], undecided)
    else:
        measurements, _ = measure_spatial(latents.mean[chosen], None)
        reason = "the dataset has no masks"
        without = [(name, reason) for name in ("spatial.srss", "spatial.srss_raw")]
    return flagged(measurements, *inputs.rounding(chosen)), without


def _pooled(masks: Rows, chosen: Tensor, grid: torch.Size) -> Tensor:
    """Return the (n, h, w) share of each cell of the chosen (N, H, W) bool masks."""
    return torch.cat([pool_masks(part, grid) for part in in_batches(masks, chosen, MASKS)])


def uniformity(inputs: Inputs, spec: UniformityMetric, out: Path) -> Found:
    """Return the density of latent cells; see `measure_uniformity`."""
    chosen, latents = inputs.data.split(spec.split), inputs.latents
    mean, logvar, mirrored, drawn = latents.mean[chosen], None, None, False
    if spec.posterior == "draw":
        logvar = latents.logvar[chosen]
        if not bool((logvar > LOGVAR_RANGE[0]).any()):  # of a deterministic encoder, or on disk
            logvar = None
            drawn = inputs.encodes  # then a draw is the mean; of latents on disk nobody knows
    if spec.flip and latents.mirrored is not None:
        means, logvars = (ChosenLatents(moment, chosen) for moment in latents.mirrored)
        mirrored = (means, None if logvar is None else logvars)
    measurements = measure_uniformity(
        mean,
        logvar=logvar,
        mirrored=mirrored,
        seed=inputs.stream("repeats") % 2**31,  # scikit-learn takes 32 bits
        points=spec.points,
        repeats=spec.repeats,
        perplexity=spec.perplexity,
        iterations=spec.iterations,
        n_jobs=int(os.environ.get("OMP_NUM_THREADS", "1")),
    )
    if drawn:
        draws = {"posterior": "draw"}
        measurements = [replace(m, options=m.options | draws) for m in measurements]
    return flagged(measurements, *inputs.rounding(chosen)), []


def geometry(inputs: Inputs, spec: GeometryMetric, out: Path) -> Found:
    """Return stretch and slopes of spectra, and write spectra.csv."""
    split = inputs.data.split(spec.split)
    chosen = split[torch.randperm(len(split), generator=inputs.generator("images"))[: spec.images]]
    images = to_float(inputs.data.images[chosen])  # (N, C, H, W)
    mean = inputs.latents.mean[chosen]  # (N, d, h, w)
    stretch, unstretched = measure_stretch(images, mean)
    order = inputs.generator("order")
    slopes, unsloped, spectra = measure_spectra(mean, to_vector(mean), order)
    found = flagged([*stretch, *slopes], *inputs.rounding(chosen))
    _write_spectra(spectra, out / "spectra.csv")
    return found, [*unstretched, *unsloped]


def _write_spectra(spectra: Sequence[Spectrum], path: Path) -> None:
    """Write one row per frequency; power 1 is that of white noise."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["order", "permuted", "frequency", "power", "stderr"])
        for spectrum in spectra:
            columns = (spectrum.frequency, spectrum.power, spectrum.stderr)
            for values in zip(*(column.tolist() for column in columns), strict=True):
                rows.writerow([spectrum.order, int(spectrum.permuted), *values])


def fisher(inputs: Inputs, spec: FisherMetric, out: Path) -> Found:
    """Return Fisher curves of fits to the latents; see `measure_fisher`."""
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
    return flagged(measurements, *inputs.rounding(chosen)), without


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
