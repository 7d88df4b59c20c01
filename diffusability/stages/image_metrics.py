"""Stages of the metric groups that run the tokenizer again, on the images of a split."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.tensors import write_tensors
from diffusability.data.images import in_batches, thinned, to_float
from diffusability.figures.image_grid import write_image_grid
from diffusability.latents.channel_statistics import channel_statistics, denormalise, normalise
from diffusability.latents.mapped import ChosenLatents, Latents
from diffusability.metrics.alignment import fit_alignment, measure_alignment
from diffusability.metrics.continuity import measure_interpolation_frechet
from diffusability.metrics.distortion import measure_distortion
from diffusability.metrics.equivariance import Transform, measure_equivariance
from diffusability.metrics.measurement import Measurement, flagged
from diffusability.metrics.nearest_neighbours import nearest_neighbours
from diffusability.metrics.reconstruction import (
    measure_lpips,
    measure_posterior,
    measure_reconstruction,
    measure_reconstruction_frechet,
)
from diffusability.nn.chunks import chunks, joined
from diffusability.stages.features import BATCH, SHARDS, Extractor
from diffusability.stages.inputs import Inputs
from diffusability.stages.measurements import Found
from diffusability.study.metrics.groups import DistortionMetric, ReconstructionMetric
from diffusability.study.metrics.perspectives import ContinuityMetric, EquivarianceMetric
from diffusability.tokenizers.perceptual import LpipsPerceptual
from diffusability.tokenizers.posterior import LOGVAR_RANGE
from diffusability.tokenizers.regularizers.alignment import latent_features

PICTURED = 16
FITTED = 10_000  # maximum training images for fitting the map of the alignment cosine
LPIPS_BATCH = 32  # VGG-16 at full resolution needs about 0.2 GB per image pair
KL = "reconstruction.kl"


def reconstruction(inputs: Inputs, spec: ReconstructionMetric, out: Path) -> Found:
    """Return what decoding keeps, and write reconstructions.png (originals above them)."""
    chosen = inputs.data.split(spec.split)
    latents = inputs.latents[chosen]
    extractor = None if spec.extractor is None else Extractor(inputs, spec.extractor)
    distance = inputs.lpips("lpips") if "lpips" in inputs else None
    real, decoded = [], []  # (B, D) feature vectors
    distances: list[Tensor] = []  # (B,) LPIPS
    pictured: list[Tensor] = []  # originals and reconstructions of the first images

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        """Decode every image once, for all metrics."""
        for pair in _reconstruct(inputs, chosen, latents):
            if extractor is not None:
                features = [extractor(images).vectors for images in pair]
                real.append(features[0])
                decoded.append(features[1])
            if distance is not None:
                distances.append(_distances(distance, *pair, inputs.device))
            if not pictured:
                pictured.extend(images[:PICTURED] for images in pair)
            yield pair[0].to(inputs.device), pair[1].to(inputs.device)  # SSIM costs most

    fidelity = measure_reconstruction(pairs())
    posterior, without = _posterior(latents)
    found = [*fidelity, *posterior]
    if extractor is not None:
        frechet = measure_reconstruction_frechet(
            torch.cat(real),
            torch.cat(decoded),
            extractor=extractor.name,
            generator=inputs.generator("shards"),
            resolution=extractor.resolution,
            shards=SHARDS,
        )
        found.append(frechet)
    if distances:
        found.append(measure_lpips(torch.cat(distances)))
    if "alignment" in inputs:
        found.append(_alignment(inputs, spec))
    write_image_grid(out / "reconstructions.png", torch.cat(pictured), columns=PICTURED)
    return found, without


def _posterior(latents: Latents) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Return the metrics of the posterior, and those not applicable to a deterministic encoder."""
    moments = zip(latents.mean.split(BATCH), latents.logvar.split(BATCH), strict=True)
    found = measure_posterior(moments)
    if bool((latents.logvar > LOGVAR_RANGE[0]).any()):
        return found, []
    reason = "the encoder is deterministic, its divergence is infinite"
    # the smallest variance stands for none, and would be a share of latents in a small unit
    found = [replace(m, value=0.0, stderr=0.0) for m in found if m.metric != KL]
    return found, [(KL, reason)]


@torch.no_grad()
def _distances(
    lpips: LpipsPerceptual, originals: Tensor, reconstructions: Tensor, device: torch.device
) -> Tensor:
    """Return the (B,) LPIPS of uint8 images (B, C, H, W), a few at a time."""
    parts = zip(originals.split(LPIPS_BATCH), reconstructions.split(LPIPS_BATCH), strict=True)
    return torch.cat(
        [lpips(to_float(a.to(device)), to_float(b.to(device))).cpu() for a, b in parts]
    )


def _alignment(inputs: Inputs, spec: ReconstructionMetric) -> Measurement:
    """Return the alignment with the encoder that the tokenizer was trained to agree with."""
    data, latents = inputs.data, inputs.latents
    encoder = inputs.encoder("alignment")
    train = data.split("train")
    order = torch.randperm(len(train), generator=inputs.generator("alignment"))
    fitted = train[order[:FITTED]]
    statistics = channel_statistics(latents.mean[fitted])

    @torch.no_grad()
    def pairs(indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        batches = in_batches(data.images, indices, BATCH)
        for part, images in zip(indices.split(BATCH), batches, strict=True):
            z = normalise(latents.mean[part], statistics)  # (B, d, h, w)
            shown = (to_float(few.to(inputs.device)) for few in chunks(images))
            features = joined([encoder.grid(few).cpu() for few in shown])
            yield z, latent_features(features, z, "alignment cosine")

    flags = () if spec.split == "val" else ("in-sample",)
    return measure_alignment(pairs(data.split(spec.split)), fit_alignment(pairs(fitted)), flags)


@torch.no_grad()
def _reconstruct(
    inputs: Inputs, chosen: Tensor, latents: Latents
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and their reconstructions from posterior means, both (B, C, H, W) uint8.

    Args:
        inputs: dataset and tokenizer.
        chosen: (n,) int64 images of the dataset.
        latents: of the chosen images, in their order.
    """
    images = in_batches(inputs.data.images, chosen, BATCH)
    for originals, z in zip(images, latents.mean.split(BATCH), strict=True):
        yield originals, inputs.decode(z, "reconstructions")


def continuity(inputs: Inputs, spec: ContinuityMetric, out: Path) -> Found:
    """Return iFID, and write the neighbours that were found."""
    data, latents = inputs.data, inputs.latents
    asked, offered = data.split(spec.split), data.split(spec.pool)
    statistics = channel_statistics(latents.mean, offered) if spec.normalise else None
    queries = ChosenLatents(latents.mean, asked, statistics)[:]  # (n, C, h, w)
    # ImageNet's training latents, the usual pool, are 42 GB: they stay on disk
    pool = ChosenLatents(latents.mean, offered, statistics)  # (m, C, h, w)
    table = nearest_neighbours(
        queries.to(inputs.device),
        pool,
        neighbours=spec.neighbours,
        distance=spec.distance,
        exclude_self=_positions(asked, offered, len(data.labels)),
        query_labels=latents.labels[asked] if spec.same_class else None,
        pool_labels=latents.labels[offered] if spec.same_class else None,
    ).cpu()
    extractor = Extractor(inputs, spec.extractor)
    originals = extractor.of_dataset(data, asked).vectors

    def decode(interpolated: Tensor) -> Tensor:
        raw = interpolated if statistics is None else denormalise(interpolated, statistics)
        return inputs.decode(raw, "decoded interpolations")

    measurement = measure_interpolation_frechet(
        queries,
        pool,
        table,
        decode=decode,
        extract=lambda images: extractor(images).vectors,
        reference=extractor.moments(originals),
        originals=originals,
        generator=inputs.generator("neighbours"),
        alpha=spec.alpha,
        interpolation=spec.interpolation,
        choice=spec.choice,
        batch_size=BATCH,
    )
    write_tensors(out / "neighbours.safetensors", table.to_tensors(), table.to_metadata())
    options = measurement.options | {"normalise": spec.normalise}
    measurement = replace(measurement, options=options)
    read = torch.cat([asked, offered])
    return flagged([measurement], *inputs.rounding(read)), []


def _positions(asked: Tensor, offered: Tensor, images: int) -> Tensor:
    """Return where in the (m,) offered images each of the (n,) asked ones is, -1: nowhere."""
    where = torch.full((images,), -1)
    where[offered] = torch.arange(len(offered))
    return where[asked]


def distortion(inputs: Inputs, spec: DistortionMetric, out: Path) -> Found:
    """Return distortion of tangents, curvature and their parts; see `measure_distortion`."""
    split = inputs.data.split(spec.split)
    chosen = thinned(split, spec.images, inputs.data.labels[split])
    tokenizer = inputs.tokenizer

    def encode(images: Tensor) -> Tensor:
        return tokenizer.encode(images).mean  # (B, C, h, w)

    found = measure_distortion(
        encode,
        to_float(inputs.data.images[chosen]).to(inputs.device),
        inputs.data.labels[chosen],
        spec.variances,
        anchors=spec.anchors,
        neighbours=spec.neighbours,
        seed=inputs.stream("draws") % 2**31,
    )
    return found, []


def equivariance(inputs: Inputs, spec: EquivarianceMetric, out: Path) -> Found:
    """Return errors of equivariance; see `measure_equivariance`."""
    chosen = inputs.data.split(spec.split)
    statistics = channel_statistics(inputs.latents.mean[chosen])

    def encode(images: Tensor) -> Tensor:
        mean, _ = inputs.encode(images)  # (B, C, h, w)
        return normalise(mean, statistics)

    transforms = [Transform("rotate", angle) for angle in spec.rotations]
    transforms += [Transform("scale", scale) for scale in spec.scales]
    transforms += [Transform("flip", 0)] if spec.flip else []
    batches = map(to_float, in_batches(inputs.data.images, chosen, BATCH))
    measurements, without = measure_equivariance(encode, batches, transforms=transforms)
    cells = [
        (f"equivariance.{cell}_{kind}", reason)
        for cell, reason in without
        for kind in ("error", "cosine")
    ]
    return measurements, cells
