"""Entries of a study file that options hold or stand for; their paths are absolute.

The study of a score runs in its own folder, where a relative path would mean another place.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from diffusability.data.folder_layout import unread_format
from diffusability.errors import StudyError
from diffusability.study.dataset import DATASETS
from diffusability.study.encoder import ENCODERS
from diffusability.study.folder_content import dataset_images, entries, is_folder, is_image
from diffusability.study.tokenizer import TOKENIZER_SOURCES

ARCHIVES = {".zip": "zip", ".parquet": "parquet", ".tar": "tar"}
SIZE = 256  # pixels, of images in folders and archives


def absolute_paths(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a dataset, encoder or tokenizer with absolute paths."""
    models = chain(DATASETS.values(), ENCODERS.values(), TOKENIZER_SOURCES.values())
    keys = {key for model in models for key in model.place_keys()}
    return {
        key: str(Path(value).absolute()) if key in keys and isinstance(value, str) else value
        for key, value in entry.items()
    }


def is_entry(text: str) -> bool:
    """Return whether a text is an entry such as `kind: digits`, and no name or path."""
    return re.search(r"\w: ", text) is not None


def read_entry(option: str, text: str) -> dict[str, Any]:
    """Return the entry that an option holds.

    Raises:
        StudyError: the text is none.
    """
    try:
        found = yaml.safe_load(text if text.lstrip().startswith("{") else f"{{{text}}}")
    except yaml.YAMLError:
        found = None
    if not isinstance(found, Mapping):
        raise StudyError(f"{option} {text}: neither exists nor is an entry such as `kind: digits`")
    return absolute_paths(found)


def images_entry(images: str, size: int | None, classes: int | None) -> dict[str, Any]:
    """Return the entry of the dataset that `--images` names.

    Args:
        images: folder, archive, or an entry. size: side of the images in pixels; None: 256, or
            that of the entry. classes: their number; None: counted, or that of the entry.

    Raises:
        StudyError: there are no such images, or their entry has no key for `size` or `classes`.
    """
    if ":" in images and not Path(images).exists():
        options = {"size": ("size", size), "classes": ("num_classes", classes)}
        return _with_options(read_entry("--images", images), options)
    path = Path(images).absolute()
    if not path.exists():
        raise StudyError(f"{images}: there is no such folder or archive of images")
    entry: dict[str, Any] = {"path": str(path), "size": SIZE if size is None else size}
    if path.is_dir():
        found = _class_folders(path) if classes is None else classes
        if size is None:
            _refuse_small(path)
        return {"kind": "folder", **entry, "num_classes": found}
    if path.suffix not in ARCHIVES:
        raise StudyError(f"{images}: images are a folder, or a file of {', '.join(ARCHIVES)}")
    if classes is None:
        raise StudyError(f"{images}: say how many classes the archive has: --classes N")
    return {"kind": ARCHIVES[path.suffix], **entry, "num_classes": classes}


def _with_options(
    entry: dict[str, Any], options: Mapping[str, tuple[str, int | None]]
) -> dict[str, Any]:
    """Return the entry of a dataset with the values of options in the place of its keys."""
    kind = entry.get("kind")
    known = DATASETS[kind].model_fields if isinstance(kind, str) and kind in DATASETS else None
    given = {option: named for option, named in options.items() if named[1] is not None}
    for option, (key, value) in given.items():
        if known is not None and key not in known:
            raise StudyError(
                f"--{option} {value}: images of kind {kind} have no key `{key}`; leave it out"
            )
    return entry | dict(given.values())


def _refuse_small(path: Path) -> None:
    """Refuse images that would be enlarged to the default size, which is not seen in the scores."""
    first = next(dataset_images(path), "")
    try:
        with Image.open(path / first) as image:
            sides = image.size
    except OSError:
        return  # named with all others that cannot be read, when the dataset is made
    if min(sides) < SIZE:
        raise StudyError(
            f"{path / first}: its {sides[0]} x {sides[1]} pixels would be enlarged to {SIZE}; say "
            f"which side images get: --size {min(sides)}, or --size {SIZE}"
        )


def _class_folders(path: Path) -> int:
    """Return the number of class folders; 1 for images without any."""
    root = path / "train" if (path / "train").is_dir() else path
    there = entries(root)
    folders = sum(map(is_folder, there))
    if not folders and not any(is_image(each.name) for each in there):
        files = [Path(each.path) for each in there]
        raise StudyError(f"{root}: there are no images in this folder{_what_else(files)}")
    return max(1, folders)


def _what_else(files: Sequence[Path]) -> str:
    """Return what a folder without images holds, where that is known to hold some."""
    for file in files:
        kind = ARCHIVES.get(file.suffix)
        if kind:
            entry = (
                f"kind: {kind}, path: {file.parent}/*{file.suffix}, num_classes: N, size: {SIZE}"
            )
            return f"; of its archives it is --images '{entry}'"
        if reason := unread_format(file.name):
            return f"; {reason}: convert {file.name} and the others"
    return ""
