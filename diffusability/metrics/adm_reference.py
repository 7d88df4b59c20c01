"""Reference statistics of the ADM evaluator, read from the file that it publishes."""

import zipfile
from pathlib import Path

import numpy as np
import torch

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import FeatureMoments

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
            file does not say, and the images inside it are another, smaller set.
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
        The side, or None where the file holds moments alone.

    Raises:
        MeasurementError: if the file is missing, or no npz.
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
