"""Arrays in files that people save latents, labels and masks in: npy, npz and safetensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffusability.errors import DataError

SUFFIXES = (".npy", ".npz", ".safetensors")


def read_array(path: str | Path, names: tuple[str, ...], key: str | None = None) -> Tensor:
    """Return one array of a file; npy and safetensors are mapped and read where they are indexed.

    Args:
        path: of the file.
        names: usual names of the array; of a file with several the first of these is taken.
        key: its name in the file, where it is another.

    Raises:
        DataError: the file is missing, cannot be read, or does not say which array is meant.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: latents, labels and masks are files of {', '.join(SUFFIXES)}")
    try:
        arrays = _arrays(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix} ({error!s:.200})") from None
    if key is None:
        key = next((name for name in names if name in arrays), None)
    if key is None and len(arrays) == 1:
        key = next(iter(arrays))
    if key is None or key not in arrays:
        wanted = f"`{key}`" if key else f"one of {', '.join(names)}"
        raise DataError(f"{path}: holds {', '.join(arrays) or 'nothing'}, and not {wanted}")
    return arrays[key]


def _arrays(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)  # mapped on the CPU
    if path.suffix == ".npy":
        return {"": _tensor(np.load(path, mmap_mode="c", allow_pickle=False))}
    with np.load(path, allow_pickle=False) as found:
        return {name: _tensor(found[name]) for name in found.files}


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"numbers are expected, it holds {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch has no arithmetic of these
    return torch.from_numpy(np.ascontiguousarray(array) if not array.flags.c_contiguous else array)
