"""IDX files, the format of MNIST: a header of big-endian numbers, then bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusability.data.pixels import PixelFiles, Split
from diffusability.errors import DataError
from diffusability.study.entries.pixel_dataset import IdxDataset
from diffusability.study.sources.image_files import IDX_PARTS, idx_files

UNSIGNED_BYTE = 0x08  # type code in the third byte


class Idx(PixelFiles[IdxDataset]):
    """Images in the format of MNIST; what is not black is the foreground."""

    def read(self) -> tuple[Split, Split]:
        """Return both splits; see `PixelFiles.read`."""
        files = idx_files(self.spec.path)
        if missing := [part for part in IDX_PARTS if part not in files]:
            raise DataError(f"{self.spec.path}: no file of {', '.join(missing)}")
        train, val = (
            Split(
                read_idx(files[f"{split} images"], 3)[:, None],  # (n, 1, H, W)
                read_idx(files[f"{split} labels"], 1),
                files[f"{split} images"],
            )
            for split in ("training", "test")
        )
        return train, val

    def masks(self, images: Tensor) -> Tensor | None:
        """Return where images are at least as bright as the study says."""
        return None if self.spec.foreground is None else images[:, 0] >= self.spec.foreground


def read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes, gzipped or not.

    Raises:
        DataError: the file cannot be read, is damaged, or has another type or number of dimensions.
    """
    try:
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: cannot be read ({reason}); copy or install it again") from None
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != expected:
        raise DataError(
            f"{file}: begins with {content[:4].hex() or 'nothing'}, an IDX file of bytes in "
            f"{dimensions} dimension{'s'[: dimensions > 1]} with {expected.hex()}"
        )
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[k : k + 4], "big") for k in range(4, start, 4)]
    if len(content) < start or len(content) - start != math.prod(shape):
        raise DataError(
            f"{file}: {max(len(content) - start, 0)} bytes follow the header, which announces "
            f"{' x '.join(map(str, shape))}; copy or install it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
