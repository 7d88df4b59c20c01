"""Image files of a folder with class and split, sorted by name.

Layouts: `train/<class>/...` with or without `val/<class>/...` (ImageNet), `<class>/...` alone, and
images without class folders, which are one class.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from diffusability.data.image_file import is_image
from diffusability.data.images import stratified_validation
from diffusability.errors import DataError
from diffusability.study.dataset import FolderDataset
from diffusability.study.fingerprint import derive_seed

NAMED = 5  # names listed in a message
ByClass = dict[str, list[str]]  # class folder to the relative names of its images, both sorted


@dataclass(frozen=True)
class Listing:
    """The image files of a folder: training first, then by class and name.

    Attributes:
        classes: names of the class folders, sorted; [""] without class folders.
        files: names relative to the folder, with forward slashes.
        labels: index in `classes` of each file.
        validation: whether each file is held out.
    """

    classes: list[str]
    files: list[str]
    labels: list[int]
    validation: list[bool]


def list_images(root: Path, spec: FolderDataset) -> Listing:
    """Return the images below `root`; hidden files and other suffixes do not count.

    Raises:
        DataError: no images, an empty class folder, classes that differ between train/ and val/,
            or another number of classes than the study declares.
    """
    names = {entry.name for entry in _entries(root)}
    if "val" in names and "train" not in names:
        raise DataError(
            f"{root}: holds val/ but no train/; give the path {root / 'val'} to divide that folder"
        )
    train = _by_class(root, "train/" if "train" in names else "")
    val = _by_class(root, "val/") if {"train", "val"} <= names else {}
    classes = list(train)
    if val:
        _compare_classes(root, train, val)
    if len(classes) != spec.num_classes:
        raise DataError(
            f"{root}: {len(classes)} class folders ({named(classes)}), the study has "
            f"num_classes: {spec.num_classes}"
        )
    files = [name for group in (train, val) for names in group.values() for name in names]
    labels = [
        label for group in (train, val) for label, names in enumerate(group.values()) for _ in names
    ]
    held_out = sum(map(len, val.values()))
    validation = [False] * (len(files) - held_out) + [True] * held_out
    if not val:
        seed = derive_seed("folder split")
        validation = stratified_validation(torch.tensor(labels), spec.val_fraction, seed).tolist()
    return Listing(classes, files, labels, validation)


def images_below(root: Path, prefix: str = "") -> Iterator[str]:
    """Yield the names, relative to `root`, of all image files below its folder `prefix`."""
    for entry in _entries(root / prefix):
        name = f"{prefix}{entry.name}"
        if _is_folder(entry):
            yield from images_below(root, f"{name}/")
        elif is_image(entry.name):
            yield name


def named(items: Collection[str]) -> str:
    """Return the first few of many names as text."""
    shown = ", ".join(list(items)[:NAMED])
    return shown + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without hidden ones."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one that does not contain the link.

    Raises:
        DataError: it is a link that leads in a circle.
    """
    path = Path(entry.path)
    try:
        folder = entry.is_dir()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if folder and entry.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
        raise DataError(f"{path}: is a link to a folder above it, so its images have no end")
    return folder


def _by_class(root: Path, prefix: str) -> ByClass:
    """Return the images of a split; class folders may have subfolders."""
    entries, where = _entries(root / prefix), root / prefix
    folders = [entry.name for entry in entries if _is_folder(entry)]
    flat = [f"{prefix}{e.name}" for e in entries if is_image(e.name) and e.name not in folders]
    if flat and folders:
        raise DataError(
            f"{where}: holds images ({named(flat)}) and folders ({named(folders)}); put every "
            "image into the folder of its class, or all of them into one folder"
        )
    if not flat and not folders:
        raise DataError(f"{where}: holds no images (.jpg, .jpeg, .png, .webp) and no class folders")
    if flat:
        return {"": flat}
    found = {name: sorted(images_below(root, f"{prefix}{name}/")) for name in folders}
    if empty := [name for name, images in found.items() if not images]:
        raise DataError(f"{where}: no images in the class folders {named(empty)}")
    return found


def _compare_classes(root: Path, train: ByClass, val: ByClass) -> None:
    """Refuse a validation split whose classes are not those of training."""
    if train.keys() == val.keys():
        return
    if "" in val:
        raise DataError(f"{root / 'val'}: sort its images into class folders, as in train/")
    lacking = [name for name in train if name not in val]
    unknown = [name for name in val if name not in train]
    differences = [f"only train/ has {named(lacking)}"] if lacking else []
    differences += [f"only val/ has {named(unknown)}"] if unknown else []
    raise DataError(f"{root}: classes of train/ and val/ differ: {'; '.join(differences)}")
