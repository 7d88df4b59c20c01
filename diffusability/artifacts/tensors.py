"""Safetensors files that are the same to the last bit whenever their content is."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from diffusability.artifacts.atomic import write_bytes

LENGTH = 8  # bytes that say how long the header is
ALIGNMENT = 8  # of the tensors behind the header, in bytes


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and words about them, whole or not at all.

    The library writes the words in another order in every process; here they are sorted.
    """
    content = save(tensors, dict(metadata))
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    header = json.loads(content[LENGTH:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    write_bytes(path, len(text).to_bytes(LENGTH, "little") + text + content[end:])
