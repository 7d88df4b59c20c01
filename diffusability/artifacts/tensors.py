"""Safetensors files that are bitwise equal for equal contents."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from diffusability.artifacts.atomic import write_bytes

LENGTH = 8  # bytes of the header's length
ALIGNMENT = 8  # alignment in bytes of the tensors after the header


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, atomically.

    The library orders metadata differently in every process; here the keys are sorted.
    """
    content = save(tensors, dict(metadata))
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    header = json.loads(content[LENGTH:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    write_bytes(path, len(text).to_bytes(LENGTH, "little") + text + content[end:])
