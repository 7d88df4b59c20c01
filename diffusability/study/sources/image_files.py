"""Files that hold many images each: which they are, and their identity."""

import glob
import hashlib
import re
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffusability.study.core.fingerprint import canonical_json
from diffusability.study.sources.content import content_digest
from diffusability.study.sources.folder_content import is_hidden, is_image

# parts of an IDX data set, by what their names contain
IDX_PARTS = {
    "training images": ("train-images",),
    "training labels": ("train-labels",),
    "test images": ("t10k-images", "test-images"),
    "test labels": ("t10k-labels", "test-labels"),
}

# CIFAR's binary files by number of classes: of training, of testing. CIFAR-100 has 20 superclasses
_CIFAR_10 = tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",)
_CIFAR_100 = ("train.bin",), ("test.bin",)
CIFAR_FILES = {10: _CIFAR_10, 20: _CIFAR_100, 100: _CIFAR_100}


def idx_files(folder: str) -> dict[str, Path]:
    """Return the IDX files of a folder by part; of a file and its gzipped copy, the file.

    Raises:
        ValueError: the folder holds several data sets.
    """
    names = sorted(path.name for path in Path(folder).glob("*ubyte*"))
    found = {}
    for part, spellings in IDX_PARTS.items():
        fitting = [name for name in names if any(text in name for text in spellings)]
        if len({name.removesuffix(".gz") for name in fitting}) > 1:
            raise ValueError(
                f"{folder}: several files of {part} ({', '.join(fitting)}); put every data set "
                "into a folder of its own"
            )
        if fitting:
            found[part] = Path(folder, fitting[0])  # a name sorts before the same name with .gz
    return found


def archive_files(path: str, suffix: str) -> list[Path]:
    """Return the archives that a path stands for, by name: a file, a folder's files, or a pattern.

    Raises:
        ValueError: a folder holds archives of a training and of another split.
    """
    if Path(path).is_file():  # its name may hold what a pattern reads otherwise
        return [Path(path)]
    if not Path(path).is_dir():
        return [Path(name) for name in sorted(glob.glob(path))]
    files = sorted(file for file in Path(path).glob(f"*{suffix}") if file.name[0] != ".")
    words = r"(?<![a-z])(train|val|test)"  # not in "retrieval"
    splits = {word for file in files for word in re.findall(words, file.name.lower())}
    if len(splits) > 1:
        raise ValueError(
            f"{path}: holds files of several splits ({', '.join(sorted(splits))}); name the files "
            f"by patterns, as `path: {path}/train*{suffix}` and `val: {path}/val*{suffix}`"
        )
    return files


def files_digest(files: Iterable[Path]) -> str | None:
    """Return the SHA-256 of the content of files in their order, whatever their names are.

    Returns:
        64 hexadecimal digits; None without files, or where one of them does not exist.
    """
    digests = [content_digest(file) for file in files]
    if not digests or None in digests:
        return None
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def count_in_zips(files: Sequence[Path]) -> int | None:
    """Return the number of images in zips, from their directories; None if one cannot be read."""
    images = 0
    try:
        for file in files:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                images += sum(is_image(name) and not is_hidden(name) for name in names)
    except (zipfile.BadZipFile, OSError):
        return None
    return images


def count_in_parquet(files: Sequence[Path]) -> int | None:
    """Return the number of rows of Parquet files; None if one cannot be read."""
    try:
        from pyarrow import ArrowException  # imported here: an optional dependency
        from pyarrow.parquet import read_metadata
    except ImportError:
        return None
    try:
        return sum(int(read_metadata(file).num_rows) for file in files)
    except (ArrowException, OSError):
        return None


def count_in_tars(files: Sequence[Path]) -> int | None:
    """Return the number of images in tars: those of the first, times the size of all over its own.

    A tar has no directory, and reading through all of a large data set takes minutes. None if the
    first cannot be read.
    """
    if not files:
        return 0
    try:
        with tarfile.open(files[0], "r:") as first:
            images = sum(is_image(member.name) for member in first if member.isfile())
        sizes = [file.stat().st_size for file in files]
    except (tarfile.TarError, OSError):
        return None
    return round(images * sum(sizes) / sizes[0])
