"""IDX files, as Fashion-MNIST and MNIST are given out."""

import gzip
from pathlib import Path

import numpy as np

SIDE = 28
RANDOM = np.random.default_rng(0)
IMAGES = {"train": RANDOM.integers(0, 256, (60, SIDE, SIDE)), "t10k": np.zeros((20, SIDE, SIDE))}
IMAGES["t10k"][:, 10:20, 5:9] = np.arange(20)[:, None, None]
LABELS = {"train": np.arange(60) % 10, "t10k": np.arange(20) // 2}


def idx_bytes(values: np.ndarray) -> bytes:
    """Return an array as an IDX file, as the format's description says."""
    header = [0, 0, 8, values.ndim]
    for count in values.shape:
        header += [count >> 24 & 255, count >> 16 & 255, count >> 8 & 255, count & 255]
    return bytes(header) + values.astype(np.uint8).tobytes()


def write_idx(folder: Path, suffix: str = ".gz") -> Path:
    """Write the four files, gzipped or not."""
    folder.mkdir()
    for split in ("train", "t10k"):
        files = {"images-idx3": IMAGES[split], "labels-idx1": LABELS[split]}
        for part, values in files.items():
            content = idx_bytes(values)
            content = gzip.compress(content) if suffix == ".gz" else content
            (folder / f"{split}-{part}-ubyte{suffix}").write_bytes(content)
    return folder
