"""Entries of a study file that options hold or stand for; their paths are absolute.

The study of a score runs in its own folder, where a relative path would mean another place.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from diffusability.data.folder_layout import unread_format
from diffusability.errors import DataError, StudyError
from diffusability.study.core.problems import Problems
from diffusability.study.entries.dataset import DATASETS, Dataset
from diffusability.study.entries.encoder import ENCODERS
from diffusability.study.entries.tokenizer import TOKENIZER_SOURCES
from diffusability.study.preflight.needs import describe_package, missing
from diffusability.study.sources.folder_content import entries, is_folder, is_image

OPTION_OF = {"num_classes": "--classes", "size": "--size"}  # of keys of images
ARCHIVES = {".zip": "zip", ".parquet": "parquet", ".tar": "tar"}


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
        images: folder, archive, or an entry. size: side of the images in pixels; None: that of the
            entry, or its kind's default. classes: their number; None: that of the entry, else it is
            counted.

    Raises:
        StudyError: there are no such images, or their entry has no key for `size` or `classes`.
        DataError: an archive, whose classes are counted, cannot be read.
    """
    given = {"size": size, "num_classes": classes}
    named = {key: value for key, value in given.items() if value is not None}
    if ":" in images and not Path(images).exists():
        entry = read_entry("--images", images)
        _refuse_unknown(entry, named)
    else:
        path = Path(images).absolute()
        if not path.exists():
            raise StudyError(f"{images}: there is no such folder or archive of images")
        if not path.is_dir() and path.suffix not in ARCHIVES:
            raise StudyError(f"{images}: images are a folder, or a file of {', '.join(ARCHIVES)}")
        entry = {"kind": "folder" if path.is_dir() else ARCHIVES[path.suffix], "path": str(path)}
    entry |= named
    if "num_classes" not in entry and entry.get("kind") in ("folder", *ARCHIVES.values()):
        entry["num_classes"] = _count_classes(entry)
    return entry


def in_options(text: str, images: Mapping[str, Any]) -> str:
    """Return a message with options of the command in the place of a study's keys.

    Args:
        text: names keys with their values as `key: value`.
        images: entry of the dataset.
    """
    entry = ", ".join(f"{key}: {value}" for key, value in images.items() if key != "num_classes")
    known = DATASETS[str(images["kind"])].model_fields

    def option(found: re.Match[str]) -> str:
        key, value = found["key"], found["value"]
        if key in OPTION_OF:
            return OPTION_OF[key] + ("" if value is None else f" {value}")
        if key not in known or key in images:
            return found[0]
        return f"{found[0]} (--images '{entry}, {key}: {value or '...'}')"

    return re.sub(r"`(?P<key>\w+)(: (?P<value>[^`]+))?`", option, text)


@contextmanager
def errors_in_options(images: Mapping[str, Any]) -> Iterator[None]:
    """Let errors speak of options of the command; see `in_options`."""
    try:
        yield
    except (DataError, StudyError) as error:
        raise type(error)(in_options(str(error), images)) from None


def checked_images(entry: Mapping[str, Any]) -> Dataset:
    """Return the dataset of an entry.

    Raises:
        StudyError: a key is missing, unknown, or has a value that it cannot have.
    """
    problems = Problems()
    found = problems.validate_tagged("--images", dict(entry), "kind", DATASETS)
    problems.raise_any("score")
    assert found is not None
    return found


def _count_classes(entry: Mapping[str, Any]) -> int:
    """Return the number of class folders, or of the classes that labels of archives name.

    Raises:
        StudyError: the images, or the package that reads them, are missing.
        DataError: an archive cannot be read.
    """
    data = checked_images({**entry, "num_classes": 1})
    lacking = [describe_package(name) for name in data.packages() if find_spec(name) is None]
    lacking += [str(need) for need in missing(data.needs())]
    if lacking:  # a number that was not counted would be written into the study
        raise StudyError(f"--images: their classes cannot be counted: {'; '.join(lacking)}")
    if data.kind == "folder":
        return _class_folders(Path(entry["path"]))
    with errors_in_options(entry):
        return int(DATASETS.code(data)(data).count_classes())


def _refuse_unknown(entry: Mapping[str, Any], named: Mapping[str, int]) -> None:
    """Refuse options for keys that an entry of this kind does not have."""
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in DATASETS:
        return  # said when the entry is checked
    for key, value in named.items():
        if key not in DATASETS[kind].model_fields:
            raise StudyError(
                f"{OPTION_OF[key]} {value}: images of kind {kind} have no key `{key}`; leave it out"
            )


def refuse_images(data: Dataset, images: Mapping[str, Any]) -> None:
    """Refuse images that the first job would refuse, and those that a default would enlarge.

    Args:
        data: the images.
        images: their entry; without `size` they get the default of their kind.

    Raises:
        StudyError: the first image is smaller than the default; it names both sizes.
        DataError: the images are not as the entry says, or cannot be read; in options.
    """
    if missing(data.needs()) or not all(map(find_spec, data.packages())):
        return  # said with all else that is missing, when the study is run
    source = DATASETS.code(data)(data)
    with errors_in_options(images):
        source.check()
    found = None if "size" in images else source.first_stored()
    if found is None:
        return
    place, (width, height) = found
    side = min(width, height)
    if side < data.size:
        raise StudyError(
            f"{place}: its {width} x {height} pixels would be enlarged to {data.size}; say which "
            f"side images get: --size {side}, or --size {data.size}"
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
            entry = f"kind: {kind}, path: {file.parent}/*{file.suffix}"
            return f"; of its archives it is --images '{entry}'"
        if reason := unread_format(file.name):
            return f"; {reason}: convert {file.name} and the others"
    return ""
