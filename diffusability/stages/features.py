"""Features of images in batches, from the job's extractor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.metrics.feature_moments import FeatureMoments, moments_of_batches
from diffusability.nn.chunks import chunks
from diffusability.stages.inputs import Inputs
from diffusability.statistics import require_finite

BATCH = 256
SPATIAL = "-spatial"  # part of an extractor's name: features that keep their position
SHARDS = 20  # disjoint parts of a set; leaving each out in turn gives the standard error


@dataclass(frozen=True)
class Features:
    """Output of an extractor: vectors and class logits, in the order of the images."""

    vectors: Tensor  # (N, D) float32
    logits: Tensor  # (N, K) float32; K = 0 for an extractor without classes
    spatial: Tensor  # (N, S) float32, values that keep their position; S = 0 for all but Inception

    def parts(self) -> dict[str, Tensor]:
        """Return the features of Fréchet distances, by suffix of the extractor's name."""
        return {"": self.vectors} | ({SPATIAL: self.spatial} if self.spatial.shape[1] else {})


class Extractor:
    """The encoder in one role of a job."""

    def __init__(self, inputs: Inputs, name: str, role: str = "extractor") -> None:
        """Load it on the job's device; `name` becomes part of metric names."""
        self.name, self.device = name, inputs.device
        self.resolution = inputs.data.images.shape[-1]
        self._model = inputs.encoder(role)
        self._what = inputs.of("features", role)

    def __call__(self, images: Tensor) -> Features:
        """Return the features of (N, C, H, W) uint8 images."""
        return self.of_batches(images.split(BATCH))

    def of_dataset(self, data: ImageSet, chosen: Tensor) -> Features:
        """Return the features of the chosen images, (n,) int64; a few are in memory at a time."""
        return self.of_batches(in_batches(data.images, chosen, BATCH))

    @torch.no_grad()
    def of_batches(self, batches: Iterable[Tensor]) -> Features:
        """Return the features of (B, C, H, W) uint8 batches, of a few images at a time."""
        vectors, logits, spatial = [], [], []
        for few in (few for batch in batches for few in chunks(batch)):
            pixels = to_float(few.to(self.device))
            features, placed = self._model.features_and_spatial(pixels)  # (B, D), (B, S)
            require_finite(features, self._what)
            vectors.append(features.cpu())
            logits.append(self._model.logits(features).cpu())  # (B, K)
            spatial.append(placed.cpu())
        return Features(torch.cat(vectors), torch.cat(logits), torch.cat(spatial))

    def moments_of_dataset(self, data: ImageSet, chosen: Tensor) -> FeatureMoments:
        """Return the moments of the chosen images, (n,) int64; no batch's features are kept."""
        return moments_of_batches(
            (self.of_batches([b]).vectors for b in in_batches(data.images, chosen, BATCH)),
            extractor=self.name,
            resolution=self.resolution,
        )

    def moments_of_parts(self, data: ImageSet, chosen: Tensor) -> dict[str, FeatureMoments]:
        """Return the moments of the chosen images by part of the features, in one pass."""
        found: dict[str, FeatureMoments] = {}
        for batch in in_batches(data.images, chosen, BATCH):
            for part, values in self.of_batches([batch]).parts().items():
                moments = self.moments(values, part)
                found[part] = found[part].merge(moments) if part in found else moments
        return found

    def moments(self, vectors: Tensor, part: str = "") -> FeatureMoments:
        """Return the moments of (N, D) features; `part` names which of them, e.g. "-spatial"."""
        return FeatureMoments.from_features(
            vectors, extractor=self.name + part, resolution=self.resolution
        )

    def shard_moments(
        self, vectors: Tensor, rows: Sequence[Tensor], part: str = ""
    ) -> list[FeatureMoments]:
        """Return the moments of shards of (N, D) features; `rows` says which each has."""
        return [self.moments(vectors[one], part) for one in rows]
