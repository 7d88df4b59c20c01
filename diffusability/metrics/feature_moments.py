"""Mergeable first and second moments of feature vectors, in float64.

A Fréchet distance needs only the count, mean and covariance of the feature vectors.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.statistics import Moments

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def require_extractor_name(name: str) -> str:
    """Return ``name`` if it can be part of a metric's name, else refuse it.

    Args:
        name: name of a feature extractor or classifier.

    Returns:
        The name itself.

    Raises:
        MeasurementError: if it is empty or holds more than lower-case letters, digits, "_", "-".
    """
    if not _NAME.fullmatch(name):
        raise MeasurementError(
            f"extractor {name!r} cannot be part of a metric's name; "
            "use lower-case letters, digits, '_' and '-'"
        )
    return name


def require_features(features: Tensor, what: str) -> Tensor:
    """Return ``features`` as a finite float64 matrix.

    Args:
        features: (N, D) real or integer tensor.
        what: what the rows are, for the message.

    Returns:
        (N, D) float64 tensor on the same device.

    Raises:
        MeasurementError: if it is not a matrix with a row and a column, or holds NaN or infinity.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise MeasurementError(f"{what}: expected (N, D) features, got {tuple(features.shape)}")
    features = features.detach().to(torch.float64)
    if not bool(torch.isfinite(features).all()):
        bad = int((~torch.isfinite(features).all(dim=1)).sum())
        raise MeasurementError(f"{what}: {bad} of {len(features)} feature vectors are not finite")
    return features


@dataclass(frozen=True, eq=False)
class FeatureMoments(Moments):
    """Count, mean and scatter of feature vectors of one extractor.

    Attributes:
        count: number of vectors.
        mean: (D,) float64 arithmetic mean.
        scatter: (D, D) float64 sum of outer products of the centred vectors; covariance times
            ``count - 1``.
        extractor: name of the network that made the features; it becomes part of metric names.
        resolution: side in pixels of the images that the extractor was given, None if unknown.
    """

    extractor: str
    resolution: int | None = None

    def __post_init__(self) -> None:
        """Refuse moments of inconsistent shapes or dtypes."""
        require_extractor_name(self.extractor)
        dim = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if tuple(self.scatter.shape) != (dim, dim) or self.count < 1:
            raise MeasurementError(
                f"moments of {self.extractor}: count {self.count}, mean {tuple(self.mean.shape)} "
                f"and scatter {tuple(self.scatter.shape)} do not fit together"
            )
        if self.mean.dtype != torch.float64 or self.scatter.dtype != torch.float64:
            raise MeasurementError(f"moments of {self.extractor}: float64 is required")
        if not bool(torch.isfinite(self.mean).all() and torch.isfinite(self.scatter).all()):
            raise MeasurementError(f"moments of {self.extractor} are not finite; recompute them")

    @property
    def dim(self) -> int:
        """Number of features D."""
        return self.mean.shape[0]

    @property
    def rank_deficient(self) -> bool:
        """Whether the sample covariance is rank-deficient (``count <= dim``)."""
        return self.count <= self.dim

    @classmethod
    def from_features(
        cls, features: Tensor, *, extractor: str, resolution: int | None = None
    ) -> "FeatureMoments":
        """Return the moments of one batch of features.

        Args:
            features: (N, D) real tensor, N >= 1, any device.
            extractor: name of the network that made them.
            resolution: side of its input images in pixels.

        Raises:
            MeasurementError: if the features are not a finite (N, D) matrix.
        """
        features = require_features(features, f"features of {extractor}")
        mean = features.mean(dim=0)
        centred = features - mean  # (N, D)
        scatter = centred.T @ centred  # (D, D)
        return cls(len(features), mean, scatter, extractor, resolution)

    @classmethod
    def from_covariance(
        cls,
        mean: Tensor,
        covariance: Tensor,
        *,
        count: int,
        extractor: str,
        resolution: int | None = None,
    ) -> "FeatureMoments":
        """Return the moments behind a published mean and covariance.

        Args:
            mean: (D,) mean.
            covariance: (D, D) covariance with ddof = 1.
            count: number of vectors behind them, at least 2.
            extractor: name of the network that made the features.
            resolution: side of its input images in pixels.

        Raises:
            MeasurementError: if the shapes disagree, or the covariance is not symmetric.
        """
        mean, covariance = mean.to(torch.float64), covariance.to(torch.float64)
        if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
            raise MeasurementError(
                f"covariance of {extractor}: expected (D, D), got {tuple(covariance.shape)}"
            )
        asymmetry = float((covariance - covariance.T).abs().max())
        if asymmetry > 1e-6 * float(covariance.abs().max()):
            raise MeasurementError(f"covariance of {extractor} is not symmetric ({asymmetry:.2g})")
        scatter = (covariance + covariance.T) / 2 * (count - 1)
        return cls(count, mean, scatter, extractor, resolution)

    def update(self, features: Tensor) -> "FeatureMoments":
        """Return the moments with the rows of ``features`` (N, D) added."""
        return self.merge(
            FeatureMoments.from_features(
                features, extractor=self.extractor, resolution=self.resolution
            )
        )

    def require_comparable(self, other: Self) -> None:
        """Refuse moments of another extractor, resolution or dimension."""
        mine, theirs = ((m.extractor, m.resolution, m.dim) for m in (self, other))
        if mine != theirs:
            raise MeasurementError(
                f"feature moments do not belong together: (extractor, resolution, dimension) is "
                f"{mine} against {theirs}; compute both with one extractor on one resolution"
            )

    def degrees_of_freedom(self) -> int:
        """Return count - 1, which a covariance divides by (ddof = 1).

        Raises:
            MeasurementError: if there are fewer than two vectors.
        """
        if self.count < 2:
            raise MeasurementError(
                f"moments of {self.extractor}: a covariance needs two samples, got one"
            )
        return self.count - 1

    def covariance(self) -> Tensor:
        """Return the (D, D) covariance with ddof = 1.

        Raises:
            MeasurementError: if there are fewer than two vectors.
        """
        return self.scatter / self.degrees_of_freedom()

    def total_variance(self) -> float:
        """Return the trace of the covariance, in feature units squared.

        Raises:
            MeasurementError: if there are fewer than two vectors.
        """
        return float(self.scatter.trace()) / self.degrees_of_freedom()

    def to(self, device: torch.device | str) -> "FeatureMoments":
        """Return the moments on ``device``."""
        return replace(self, mean=self.mean.to(device), scatter=self.scatter.to(device))

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the arrays as tensors for a safetensors file."""
        return {
            "count": torch.tensor(self.count, dtype=torch.int64),
            "mean": self.mean.contiguous(),
            "scatter": self.scatter.contiguous(),
        }

    def to_metadata(self) -> dict[str, str]:
        """Return the other fields as metadata for a safetensors file."""
        resolution = "" if self.resolution is None else str(self.resolution)
        return {"extractor": self.extractor, "resolution": resolution}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> "FeatureMoments":
        """Return the moments that ``to_tensors`` and ``to_metadata`` stored.

        Raises:
            MeasurementError: if a tensor or a name is missing.
        """
        missing = {"count", "mean", "scatter"} - set(tensors) | {"extractor"} - set(metadata)
        if missing:
            raise MeasurementError(f"stored feature moments lack {sorted(missing)}")
        resolution = metadata.get("resolution", "")
        return cls(
            int(tensors["count"]),
            tensors["mean"],
            tensors["scatter"],
            metadata["extractor"],
            int(resolution) if resolution else None,
        )

    def digest(self) -> str:
        """Return the SHA-256 of all fields, which identifies a reference set."""
        sha = hashlib.sha256(repr(sorted(self.to_metadata().items())).encode())
        for name, tensor in sorted(self.to_tensors().items()):
            sha.update(name.encode())
            sha.update(tensor.cpu().numpy().tobytes())
        return sha.hexdigest()


def merge_moments(parts: Iterable[FeatureMoments]) -> FeatureMoments:
    """Return the merged moments of all parts.

    Args:
        parts: moments of disjoint sets of vectors, at least one; two are in memory at a time.

    Raises:
        MeasurementError: if there are none, or they do not belong together.
    """
    remaining = iter(parts)
    merged = next(remaining, None)
    if merged is None:
        raise MeasurementError("no feature moments were given; at least one shard is needed")
    for part in remaining:
        merged = merged.merge(part)
    return merged


def moments_of_batches(
    batches: Iterable[Tensor], *, extractor: str, resolution: int | None = None
) -> FeatureMoments:
    """Return the moments of all batches of features.

    Args:
        batches: (N_i, D) tensors.
        extractor: name of the network that made them.
        resolution: side of its input images in pixels.

    Raises:
        MeasurementError: if there is no batch, or one is not a finite matrix.
    """
    return merge_moments(
        FeatureMoments.from_features(batch, extractor=extractor, resolution=resolution)
        for batch in batches
    )


IMAGENET_TRAIN = 1_281_167  # images behind the published ImageNet statistics
_IMAGES = "arr_0.npy"  # (N, H, W, C) uint8 inside the file
_KEYS = {"inception": ("mu", "sigma"), "inception-spatial": ("mu_s", "sigma_s")}


def read_adm_reference(
    path: Path, *, count: int, resolution: int, extractor: str = "inception"
) -> FeatureMoments:
    """Return the moments stored in an npz of the ADM evaluator (guided-diffusion).

    Args:
        path: file with ``mu`` (2048,), ``sigma`` (2048, 2048) and, for sFID, ``mu_s`` (2023,),
            ``sigma_s``; covariances have ddof = 1.
        count: number of images behind the statistics (1,281,167 for the ImageNet train set); the
            file does not store it, and the images in the file are another, smaller set.
        resolution: side in pixels of those images.
        extractor: "inception" (pool features, FID) or "inception-spatial" (sFID).

    Raises:
        MeasurementError: if the file is missing or lacks the two arrays.
    """
    if extractor not in _KEYS:
        raise MeasurementError(f"extractor {extractor!r} is not of {sorted(_KEYS)}")
    if not path.is_file():
        raise MeasurementError(f"reference statistics {path} do not exist; download them first")
    names = _KEYS[extractor]
    with np.load(path, allow_pickle=False) as arrays:
        missing = set(names) - set(arrays.files)
        if missing:
            raise MeasurementError(f"reference statistics {path} lack {sorted(missing)}")
        mean, covariance = (torch.from_numpy(arrays[name].astype(np.float64)) for name in names)
    return FeatureMoments.from_covariance(
        mean, covariance, count=count, extractor=extractor, resolution=resolution
    )


def reference_image_side(path: Path) -> int | None:
    """Return the side in pixels of the images in an npz of the ADM evaluator.

    Args:
        path: the file; its images are not read, only their shape.

    Returns:
        The side, or None if the file holds only moments.

    Raises:
        MeasurementError: if the file is missing, or not an npz.
    """
    if not path.is_file():
        raise MeasurementError(f"reference statistics {path} do not exist; download them first")
    try:
        with zipfile.ZipFile(path) as archive:
            if _IMAGES not in archive.namelist():
                return None
            with archive.open(_IMAGES) as array:
                np.lib.format.read_magic(array)
                shape, _, _ = np.lib.format.read_array_header_1_0(array)
    except (zipfile.BadZipFile, ValueError) as error:
        raise MeasurementError(f"reference statistics {path} cannot be read ({error})") from error
    return int(shape[1])
