"""Stage `generation`: compare generated images with real ones."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusability.artifacts.card import evicted, read_card
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.data.load import load_dataset
from diffusability.metrics.class_accuracy import measure_class_accuracy
from diffusability.metrics.fdr6 import load_normalisers, load_references, measure_fdr6
from diffusability.metrics.frechet import measure_frechet
from diffusability.metrics.inception_score import measure_inception_score
from diffusability.metrics.kernel_distance import measure_kernel_distance
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.precision_recall import measure_precision_recall
from diffusability.metrics.trajectory import SCALARS
from diffusability.stages import samples as sampling
from diffusability.stages.features import Extractor, Features
from diffusability.stages.measurements import write_measurements
from diffusability.stages.reference_statistics import read_reference
from diffusability.study.metrics import GenerationMetric
from diffusability.study.names import fdr6_role

logger = logging.getLogger(__name__)
SPATIAL = "-spatial"  # part of an extractor's name: features that keep their place


def make(job: Job, folder: Path) -> None:
    """Write measurements.json: distances, accuracy, and the trajectories of the samples."""
    spec = GenerationMetric.model_validate({**job.spec, **job.local})
    data = load_dataset(job.input("dataset"))
    samples = _samples(job)
    notes = json.loads((samples / "samples.json").read_text())
    shards = [load_file(samples / name) for name in notes["shards"]]
    images, labels = (torch.cat([shard[key] for shard in shards]) for key in ("images", "labels"))
    extractor = Extractor(job, spec.extractor, data)
    real = extractor.of_dataset(data, data.split(spec.reference))
    generated = extractor(images)
    trajectory, untold = _trajectory(notes)
    compared = [
        *_distances(spec, extractor, real, generated),
        *_compare(job, extractor, real, generated),
        *_fdr6(job, spec, data, images, generated),
    ]
    asked = labels if notes["labels"] else None  # None: nothing was asked for
    named, impossible = _name(job, extractor.name, generated.logits, asked, data.num_classes)
    write_measurements(folder, [*compared, *named, *trajectory], [*impossible, *untold])


def _trajectory(notes: dict[str, Any]) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Return the statistics of the sampling paths, and what the process cannot tell."""
    if notes["trajectory"] is None:
        return [], [(name, notes["no_trajectory"]) for name, _, _ in SCALARS]
    return [Measurement(**m | {"flags": tuple(m["flags"])}) for m in notes["trajectory"]], []


def _samples(job: Job) -> Path:
    """Return the folder of the samples; evicted images are generated again, by their own job."""
    folder = job.input("samples")
    before = read_card(folder)
    if evicted(folder, before):
        logger.info("%s: its samples were evicted and are generated again", job.name)
        again = Job.from_card(folder, device=job.device)
        with again.writing() as staging:
            sampling.make(again, staging)
        if read_card(job.input("samples"))["outputs"] != before["outputs"]:
            logger.warning("%s: other bits than before, as GPUs give", folder)
    return folder


def _distances(
    spec: GenerationMetric, extractor: Extractor, real: Features, generated: Features
) -> list[Measurement]:
    """Return the Fréchet distance, and in spatial features too where the extractor has them."""
    parts = {"": (real.vectors, generated.vectors)}
    if generated.spatial.shape[1]:
        parts[SPATIAL] = (real.spatial, generated.spatial)
    return [
        measure_frechet(
            reference=read_reference(spec, extractor.name + part)
            if spec.reference_statistics is not None
            else extractor.moments(ours, part),
            generated=extractor.shard_moments(theirs, part),
        )
        for part, (ours, theirs) in parts.items()
    ]


def _fdr6(
    job: Job, spec: GenerationMetric, data: ImageSet, images: Tensor, generated: Features
) -> list[Measurement]:
    """Return FDr6 and its six ratios, where the study asks for them.

    Args:
        job: with the six extractors, and with what they were held against, upstream.
        spec: names the extractors.
        data: the dataset.
        images: (N, C, H, W) uint8, generated.
        generated: features of these images by `spec.extractor`, not extracted twice.
    """
    if spec.fdr6 is None:
        return []
    folder = job.input("fdr6")
    shards = {}
    for place, name in enumerate(spec.fdr6):
        extractor = Extractor(job, name, data, fdr6_role(place))
        vectors = generated.vectors if name == spec.extractor else extractor(images).vectors
        shards[name] = extractor.shard_moments(vectors)
    return measure_fdr6(
        references=load_references(folder / "references.safetensors"),
        generated=shards,
        normalisers=load_normalisers(folder / "normalisers.json"),
    )


def _compare(
    job: Job, extractor: Extractor, real: Features, generated: Features
) -> list[Measurement]:
    """Return the comparisons of generated features with real ones, vector by vector."""
    name = extractor.name
    return [
        measure_kernel_distance(
            reference=real.vectors,
            generated=generated.vectors,
            extractor=name,
            generator=_generator(job, "kernel distance"),
        ),
        *measure_precision_recall(
            real=real.vectors,
            generated=generated.vectors,
            extractor=name,
            generator=_generator(job, "precision and recall"),
        ),
    ]


def _name(
    job: Job, name: str, logits: Tensor, labels: Tensor | None, classes: int
) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Return what the (N, K) class logits of generated images tell, and what they cannot."""
    accuracy, score = (f"generation.{m}_{name}" for m in ("class_accuracy", "inception_score"))
    known = logits.shape[1]
    if not known:
        reason = f"the extractor `{name}` names no classes"
        return [], [(accuracy, reason), (score, reason)]
    inception_score = measure_inception_score(
        logits.double().softmax(1),
        classifier=name,
        generator=_generator(job, "inception score"),
    )
    if known != classes:
        reason = f"the {known} classes of the extractor `{name}` are not the dataset's {classes}"
        return [inception_score], [(accuracy, reason)]
    if labels is None:
        return [inception_score], [(accuracy, "the diffusion model is unconditional")]
    class_accuracy = measure_class_accuracy(
        predicted=logits.argmax(1), conditioning=labels, classes=classes, classifier=name
    )
    return [class_accuracy, inception_score], []


def _generator(job: Job, use: str) -> torch.Generator:
    return torch.Generator().manual_seed(job.stream(use))
