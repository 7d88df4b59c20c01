"""Stage `generation`: compare generated images with real ones."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from diffusability.artifacts.bulk import check_bulk, evicted
from diffusability.artifacts.card import read_card
from diffusability.data.images import ImageSet
from diffusability.metrics.class_accuracy import measure_class_accuracy
from diffusability.metrics.fdr6 import load_normalisers, load_references, measure_fdr6
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.frechet import measure_frechet
from diffusability.metrics.inception_score import measure_inception_score
from diffusability.metrics.kernel_distance import measure_kernel_distance
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.precision_recall import measure_precision_recall
from diffusability.metrics.trajectory import SCALARS
from diffusability.stages.features import BATCH, Extractor, Features
from diffusability.stages.inputs import Inputs
from diffusability.stages.measurements import Found
from diffusability.stages.references import (
    Reference,
    compared_images,
    extract_reference,
    load_reference,
)
from diffusability.stages.sample_shards import SampleShards, deal_samples
from diffusability.study.core.names import fdr6_role
from diffusability.study.metrics.generation import GenerationMetric


def make(inputs: Inputs, spec: GenerationMetric, out: Path) -> Found:
    """Return distances, accuracy, and the trajectories of the samples."""
    data, samples = inputs.data, _samples(inputs)
    notes = json.loads((samples / "samples.json").read_text())
    shards = [samples / name for name in notes["shards"]]
    extractor = Extractor(inputs, spec.extractor)
    reference = (
        extract_reference(spec, extractor, data)
        if spec.compared is None
        else load_reference(inputs.folder("reference"))
    )
    generated = extractor.of_batches(_images(shards))
    trajectory, untold = _trajectory(notes)
    dealt = deal_samples(read_card(samples)["spec"], data, inputs.generator("shards"))
    paired = _originals(extractor, spec, data, dealt)
    images = None if dealt.images is None else (compared_images(spec, data), dealt.images)
    compared = [
        *_distances(extractor, reference, generated, dealt, paired),
        *_compare(inputs, extractor, reference.vectors, generated.vectors, images),
        *_fdr6(inputs, spec, shards, generated, dealt),
    ]
    asked = _labels(shards) if notes["labels"] else None  # None: nothing was asked for
    named, without = _name(inputs, extractor.name, generated.logits, asked, data.num_classes)
    return [*compared, *named, *trajectory], [*without, *untold]


def _trajectory(notes: dict[str, Any]) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Return the statistics of the sampling paths, and what the process cannot tell."""
    if notes["trajectory"] is None:
        return [], [(name, notes["no_trajectory"]) for name, _, _ in SCALARS]
    return [Measurement(**m | {"flags": tuple(m["flags"])}) for m in notes["trajectory"]], []


def _samples(inputs: Inputs) -> Path:
    """Return the folder of the samples.

    Raises:
        ArtifactError: images were evicted; the message has the command that restores them.
    """
    folder = inputs.folder("samples")
    shards = inputs.json("samples", "samples.json")["shards"]
    check_bulk(folder, len(evicted(folder, read_card(folder))), len(shards))
    return folder


def _images(shards: Sequence[Path]) -> Iterator[Tensor]:
    """Yield (B, C, H, W) uint8 batches; one shard is in memory at a time."""
    for shard in shards:
        with safe_open(shard, "pt") as file:
            yield from file.get_tensor("images").split(BATCH)


def _labels(shards: Sequence[Path]) -> Tensor:
    """Return the (N,) classes that were asked for."""
    found = []
    for shard in shards:
        with safe_open(shard, "pt") as file:
            found.append(file.get_tensor("labels"))
    return torch.cat(found)


def _originals(
    extractor: Extractor, spec: GenerationMetric, data: ImageSet, dealt: SampleShards
) -> list[dict[str, FeatureMoments]] | None:
    """Return the moments of the images behind each shard, by part of the features.

    None: the samples were not made from images that the reference holds.
    """
    held = spec.reference in ("val", "all") and spec.reference_content is None
    if dealt.originals is None or not held:
        return None
    return [extractor.moments_of_parts(data, images) for images in dealt.originals]


def _distances(
    extractor: Extractor,
    reference: Reference,
    generated: Features,
    dealt: SampleShards,
    originals: Sequence[Mapping[str, FeatureMoments]] | None = None,
) -> list[Measurement]:
    """Return the Fréchet distance, and in spatial features too where the extractor has them."""
    return [
        measure_frechet(
            reference=reference.moments[extractor.name + part],
            generated=extractor.shard_moments(values, dealt.rows, part),
            paired=None if originals is None else [shard[part] for shard in originals],
        )
        for part, values in generated.parts().items()
    ]


def _fdr6(
    inputs: Inputs,
    spec: GenerationMetric,
    shards: Sequence[Path],
    generated: Features,
    dealt: SampleShards,
) -> list[Measurement]:
    """Return FDr6 and its six ratios, where the study asks for them.

    Args:
        inputs: with the six extractors and their references upstream.
        spec: names the extractors.
        shards: files of the generated images.
        generated: features of these images by `spec.extractor`, not extracted twice.
        dealt: which images are left out together.
    """
    if spec.fdr6 is None:
        return []
    folder = inputs.folder("fdr6")
    parts = {}
    for position, name in enumerate(spec.fdr6):
        extractor = Extractor(inputs, name, fdr6_role(position))
        known = name == spec.extractor
        features = generated if known else extractor.of_batches(_images(shards))
        parts[name] = extractor.shard_moments(features.vectors, dealt.rows)
    return measure_fdr6(
        references=load_references(folder / "references.safetensors"),
        generated=parts,
        normalisers=load_normalisers(folder / "normalisers.json"),
    )


def _compare(
    inputs: Inputs,
    extractor: Extractor,
    real: Tensor,
    generated: Tensor,
    images: tuple[Tensor, Tensor] | None,
) -> list[Measurement]:
    """Return the comparisons of (M, D) generated features with (N, D) real ones, one by one.

    All pairs are compared in float64 on the job's device: on a GPU that is held anyway.
    `images` says which image of the dataset each is a version of, (N,) and (M,).
    """
    real, generated = real.to(inputs.device), generated.to(inputs.device)
    return [
        measure_kernel_distance(
            reference=real,
            generated=generated,
            extractor=extractor.name,
            generator=inputs.generator("kernel distance"),
            images=images,
        ),
        *measure_precision_recall(
            real=real,
            generated=generated,
            extractor=extractor.name,
            generator=inputs.generator("precision and recall"),
            images=images,
        ),
    ]


def _name(
    inputs: Inputs, name: str, logits: Tensor, labels: Tensor | None, classes: int
) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Return class accuracy and Inception score of (N, K) logits, and those that do not apply."""
    accuracy, score = (f"generation.{m}_{name}" for m in ("class_accuracy", "inception_score"))
    known = logits.shape[1]
    if known < 2:
        reason = f"the extractor `{name}` names no classes"
        return [], [(accuracy, reason), (score, reason)]
    inception_score = measure_inception_score(
        logits.double().softmax(1),
        classifier=name,
        generator=inputs.generator("inception score"),
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
