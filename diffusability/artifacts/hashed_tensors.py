"""Safetensors files that say what they are: metadata, and a hash of every tensor; without torch."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from diffusability.study.core.fingerprint import canonical_json

LENGTH = 8  # bytes of the header's length
LARGEST_HEADER = 100 * 2**20  # bytes, as the library
CHUNK = 2**20  # bytes read at a time
_HASH = "sha256 of "  # followed by the name of a tensor: a key of the metadata


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        metadata: text by key, without the hashes.
        hashes: `tensor_hash` of each tensor.
        layouts: type and shape of each tensor, as text.
        spans: first byte of each tensor in the file, and the byte after its last.
    """

    metadata: Mapping[str, str]
    hashes: Mapping[str, str]
    layouts: Mapping[str, str]
    spans: Mapping[str, tuple[int, int]]


def layout(entry: Mapping[str, Any]) -> str:
    """Return type and shape in a tensor's entry of the header as text."""
    return canonical_json([entry["dtype"], entry["shape"]])


def tensor_hash(described: str, *parts: bytes | memoryview) -> str:
    """Return the SHA-256 of a tensor's `layout` and bytes, in hexadecimal."""
    digest = hashlib.sha256(described.encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def with_hashes(metadata: Mapping[str, str], hashes: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata to write: those given, and the hash of every tensor by its name."""
    return {**metadata, **{f"{_HASH}{name}": digest for name, digest in hashes.items()}}


def read_header(path: Path) -> Header:
    """Return the header of a file whose size is the one that its header implies.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is cut off, or its header is damaged.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        if not 0 < length <= LARGEST_HEADER:
            raise ValueError("its header is damaged")
        try:
            entries = json.loads(file.read(length))
            metadata = dict(entries.pop("__metadata__", {}))
            start = LENGTH + length
            layouts = {name: layout(entry) for name, entry in entries.items()}
            spans = {
                name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
                for name, entry in entries.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError("its header is damaged") from error
        size = file.seek(0, 2)
    end = max((stop for _, stop in spans.values()), default=start)
    if size != end:
        raise ValueError(f"has {size} bytes instead of {end}")
    hashes = {key.removeprefix(_HASH): v for key, v in metadata.items() if key.startswith(_HASH)}
    named = {key: value for key, value in metadata.items() if not key.startswith(_HASH)}
    return Header(named, hashes, layouts, spans)


def altered_tensors(path: Path, header: Header) -> list[str]:
    """Return the names of the tensors that do not have the hash that the header states."""
    with path.open("rb") as file:
        return [
            name
            for name, span in header.spans.items()
            if tensor_hash(header.layouts[name], *_read(file, *span)) != header.hashes.get(name)
        ]


def _read(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    file.seek(start)
    for place in range(start, stop, CHUNK):
        yield file.read(min(CHUNK, stop - place))
