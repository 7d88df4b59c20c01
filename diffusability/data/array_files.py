"""Arrays on disk that people save latents, labels and masks in: npy, npz, safetensors, zarr."""

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffusability.errors import DataError
from diffusability.study.core.commands import install_command

_BROKEN = (zipfile.BadZipFile, zlib.error)  # npz files are zips
SUFFIXES = (".npy", ".npz", ".safetensors", ".zarr")
LISTED = 5  # arrays that a message names


def read_array(path: str | Path, names: tuple[str, ...], key: str | None = None) -> Tensor:
    """Return one array of a file; npy and safetensors are mapped and read where they are indexed.

    Args:
        path: of the file, or of the folder of zarr.
        names: usual names of the array; of a file with several the first of these is taken.
        key: its name in the file, where it is another.

    Raises:
        DataError: the file is missing, cannot be read, or does not say which array is meant; or
            zarr is not installed.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: latents, labels and masks are files of {', '.join(SUFFIXES)}")
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    try:
        arrays = _of_zarr(path) if path.suffix == ".zarr" else _arrays(path)
        key = _chosen(path, arrays, names, key)
        found = arrays[key]
        # an array of zarr is read here, and whole
        return found if isinstance(found, Tensor) else to_tensor(np.asarray(found[...]))
    except (OSError, ValueError, TypeError, EOFError, *_BROKEN, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix} ({error!s:.200})") from None


def held_names(path: str | Path) -> list[str]:
    """Return the names of the arrays of a file that can be read, without reading the arrays."""
    path = Path(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            return list(found.files)
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as found:
            return list(found.keys())
    return list(_of_zarr(path)) if path.suffix == ".zarr" else []


def _chosen(path: Path, arrays: Collection[str], names: tuple[str, ...], key: str | None) -> str:
    """Return the name of the array that is meant.

    Raises:
        DataError: the file holds no such array, or several.
    """
    if key is None:
        key = next((name for name in names if name in arrays), None)
    if key is None and len(arrays) == 1:
        key = next(iter(arrays))
    if key is None or key not in arrays:
        wanted = f"`{key}`" if key else f"one of {', '.join(names)}"
        held = ", ".join(list(arrays)[:LISTED]) or "nothing"
        held += f", ... ({len(arrays)} arrays)" if len(arrays) > LISTED else ""
        raise DataError(
            f"{path}: holds {held}, and not {wanted}; weights of an autoencoder are named by their "
            "folder"
        )
    return key


def _of_zarr(path: Path) -> dict[str, Any]:
    """Return the arrays of a folder of zarr, not yet read, by name; "" where it is one array."""
    try:
        import zarr
    except ImportError:
        raise DataError(
            f"{path}: the package `zarr` is not installed; install it with: "
            f"{install_command('zarr')}"
        ) from None
    found = zarr.open(path, mode="r")
    return {"": found} if isinstance(found, zarr.Array) else dict(found.arrays())


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return load_file(path)  # mapped on the CPU
    if path.suffix == ".npy":
        return {"": to_tensor(np.load(path, mmap_mode="c", allow_pickle=False))}
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}  # file names may lie beside numbers


def as_labels(found: Tensor, count: int, what: str) -> Tensor:
    """Return an array of labels as (count,) int64.

    Raises:
        DataError: they are not one whole number per latent, or one is negative.
    """
    if tuple(found.shape) != (count,):
        raise DataError(
            f"{what}: labels of shape {tuple(found.shape)} for {count} latents; there must be one "
            "per image"
        )
    labels = found.to(torch.int64)
    if found.dtype == torch.bool or not torch.equal(labels.to(found.dtype), found):
        raise DataError(f"{what}: labels must be integers, these are {found.dtype}")
    if count and int(labels.min()) < 0:
        raise DataError(
            f"{what}: label {int(labels.min())} would be a class of its own: leave out latents "
            "without a label, latents[labels >= 0], and number classes from 0"
        )
    return labels


def to_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """Return numbers as a tensor, without a copy where torch has their type and byte order.

    Raises:
        ValueError: it holds no real numbers.
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "fiub":
        raise ValueError(f"numbers are expected, it holds {array.dtype}")
    if kind == "u" and size > 1:
        array = array.astype(np.int64)  # torch has no arithmetic of these
    elif kind == "f" and size > 8:
        array = array.astype(np.float64)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(np.ascontiguousarray(array) if not array.flags.c_contiguous else array)
