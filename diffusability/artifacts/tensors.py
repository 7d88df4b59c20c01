"""Safetensors files that are bitwise equal for equal contents."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.hashed_tensors import LENGTH, layout, tensor_hash, with_hashes
from diffusability.errors import ArtifactError

ALIGNMENT = 8  # alignment in bytes of the tensors after the header


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, atomically.

    The library orders metadata differently in every process; here the keys are sorted.
    """
    _write(path, save(tensors, dict(metadata)), metadata)


def write_hashed_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors with metadata and the hash of each tensor, atomically."""
    content = memoryview(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    hashes = {}
    for name, entry in json.loads(bytes(content[LENGTH:end])).items():
        start, stop = entry["data_offsets"]
        hashes[name] = tensor_hash(layout(entry), content[end + start : end + stop])
    _write(path, content, with_hashes(metadata, hashes))


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    floating = {name: t for name, t in tensors.items() if t.is_floating_point()}
    return [name for name, t in floating.items() if not bool(torch.isfinite(t).all())]


def require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that come from outside and hold NaN or infinity.

    Raises:
        ArtifactError: with the number of such tensors and the first of them.
    """
    if bad := non_finite(tensors):
        raise ArtifactError(
            f"{what}: {len(bad)} of {len(tensors)} tensors are not finite (first {bad[0]}); its "
            "training diverged or the file is damaged, get the weights again"
        )


def mapped_hash(described: str, tensor: Tensor) -> str:
    """Return the hash of a contiguous tensor on the CPU whose `layout` is known."""
    values: Any = tensor.flatten().view(torch.uint8).numpy()
    return tensor_hash(described, values)


def _write(path: Path, content: bytes | memoryview, metadata: Mapping[str, str]) -> None:
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    header = json.loads(bytes(content[LENGTH:end]))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    parts = (len(text).to_bytes(LENGTH, "little"), text, memoryview(content)[end:])
    write_bytes(path, b"".join(parts))
