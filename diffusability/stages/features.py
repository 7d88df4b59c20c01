"""Features of images in batches, by the extractor upstream of a job."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.encoders.load import load_encoder
from diffusability.metrics.feature_moments import FeatureMoments

BATCH = 256
SHARDS = 20  # disjoint parts of a set; leaving each out in turn gives the standard error


@dataclass(frozen=True)
class Features:
    """What an extractor says of images: vectors and class logits, in the order of the images."""

    vectors: Tensor  # (N, D) float32
    logits: Tensor  # (N, K) float32; K = 0 for an extractor without classes


class Extractor:
    """The encoder in the role `extractor` of a job."""

    def __init__(self, job: Job, name: str, data: ImageSet) -> None:
        """Load it on the job's device; `name` becomes part of metric names."""
        self.name, self.device = name, job.device
        self.resolution = data.images.shape[-1]
        self._model = load_encoder(job.input("extractor"), data, job.device)

    def __call__(self, images: Tensor) -> Features:
        """Return the features of (N, C, H, W) uint8 images."""
        return self.of_batches(images.split(BATCH))

    def of_dataset(self, data: ImageSet, chosen: Tensor) -> Features:
        """Return the features of the chosen images, (n,) int64; a few are in memory at a time."""
        return self.of_batches(in_batches(data.images, chosen, BATCH))

    @torch.no_grad()
    def of_batches(self, batches: Iterable[Tensor]) -> Features:
        """Return the features of (B, C, H, W) uint8 batches."""
        vectors, logits = [], []
        for batch in batches:
            features = self._model.features(to_float(batch).to(self.device))  # (B, D)
            vectors.append(features.cpu())
            logits.append(self._model.logits(features).cpu())  # (B, K)
        return Features(torch.cat(vectors), torch.cat(logits))

    def moments(self, vectors: Tensor) -> FeatureMoments:
        """Return the moments of (N, D) features."""
        return FeatureMoments.from_features(
            vectors, extractor=self.name, resolution=self.resolution
        )

    def shard_moments(self, vectors: Tensor) -> list[FeatureMoments]:
        """Return the moments of consecutive parts of (N, D) features.

        Consecutive, because labels run in a cycle: each k-th image would be of one class.
        """
        return [self.moments(part) for part in vectors.tensor_split(min(SHARDS, len(vectors)))]
