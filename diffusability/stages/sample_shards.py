"""Which samples are left out together for the standard errors of distances."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusability.data.images import ImageSet
from diffusability.stages.controls import posterior_images
from diffusability.stages.features import SHARDS
from diffusability.statistics import deal_blocks


@dataclass(frozen=True)
class SampleShards:
    """Disjoint shards of samples, and the images that the samples are versions of.

    Attributes:
        rows: per shard (n,) int64, which samples it has.
        originals: per shard (m,) int64, which images of the dataset they were encoded from; None:
            the samples were not made from images.
        images: (N,) int64, which image each sample was encoded from.
    """

    rows: list[Tensor]
    originals: list[Tensor] | None = None
    images: Tensor | None = None


def deal_samples(
    made: Mapping[str, Any], data: ImageSet, generator: torch.Generator
) -> SampleShards:
    """Deal samples to shards.

    Labels are cyclic, so consecutive samples are balanced over classes; every k-th sample would be
    of one class. Where a shard is shorter than a cycle, and classes next to each other may be
    alike, samples are dealt at random.

    Samples of the posterior control are in the order of the dataset, which may be that of its
    classes, and an image may have several: the images are dealt at random, each with all its
    samples.

    Args:
        made: options of the samples, as on their card.
        data: the dataset.
        generator: CPU generator of random dealing.
    """
    count: int = made["count"]
    if made.get("control") == "posterior":
        return _deal_images(posterior_images(data, count), generator)
    cycle = count >= SHARDS * data.num_classes
    order = torch.arange(count) if cycle else torch.randperm(count, generator=generator)
    return SampleShards(list(order.tensor_split(min(SHARDS, count))))


def _deal_images(images: Tensor, generator: torch.Generator) -> SampleShards:
    """Deal samples of the (N,) images, each image with all its samples."""
    originals = images.unique()  # (n,)
    sets, shards = (images, originals), min(SHARDS, len(originals))
    rows, own = deal_blocks((len(images), len(originals)), shards, generator, sets)
    return SampleShards(rows, [originals[part] for part in own], images)
