"""CIFAR's binary files: rows of one or two label bytes and 3 x 32 x 32 bytes of pixels."""

from pathlib import Path

import numpy as np

from diffusability.data.pixels import PixelFiles, Split
from diffusability.errors import DataError
from diffusability.study.entries.pixel_dataset import CifarDataset
from diffusability.study.sources.image_files import CIFAR_FILES

SHAPE = (3, 32, 32)  # red, green, blue; rows; columns
PIXELS = 3 * 32 * 32


class Cifar(PixelFiles[CifarDataset]):
    """CIFAR-10 or CIFAR-100."""

    def read(self) -> tuple[Split, Split]:
        """Return both splits; see `PixelFiles.read`."""
        train, val = (self._split(names) for names in CIFAR_FILES[self.spec.num_classes])
        return train, val

    def _split(self, names: tuple[str, ...]) -> Split:
        # CIFAR-100 has the superclass before the class
        label, labels = {10: (0, 1), 20: (0, 2), 100: (1, 2)}[self.spec.num_classes]
        rows = np.concatenate([_rows(Path(self.spec.path, name), labels) for name in names])
        place = Path(self.spec.path, names[0])
        return Split(rows[:, labels:].reshape(-1, *SHAPE), rows[:, label], place)


def _rows(file: Path, labels: int) -> np.ndarray:
    """Return the rows (n, labels + PIXELS) of a file."""
    try:
        content = np.fromfile(file, np.uint8)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None
    if not len(content) or len(content) % (labels + PIXELS):
        raise DataError(
            f"{file}: {len(content)} bytes are no whole number of images of {labels + PIXELS} "
            "bytes; unpack it again, or correct the dataset's `num_classes`"
        )
    return content.reshape(-1, labels + PIXELS)
