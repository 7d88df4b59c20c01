"""Image files of a folder with class and split, sorted by name.

Layouts: `train/<class>/...` with or without `val/<class>/...` (ImageNet), `<class>/...` alone, and
images without class folders, which are one class. Where the study has one class, images are of it
in whatever folders they lie.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from diffusability.data.images import stratified_validation
from diffusability.errors import DataError
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.entries.dataset import FolderDataset
from diffusability.study.sources.folder_content import entries, images_below, is_folder, is_image

NAMED = 5  # names listed in a message
# formats that are pictures and that this project does not read
UNREAD = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jfif",
    ".jp2",
    ".ppm",
    ".tga",
    ".tif",
    ".tiff",
)
OTHER_NAMES = ("validation", "valid")  # of val/, which is not looked for under them
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
    names = {entry.name for entry in entries(root)}
    if "val" in names and "train" not in names:
        raise DataError(
            f"{root}: holds val/ but no train/; give the path {root / 'val'} to divide that folder"
        )
    if "train" in names and "val" not in names:
        for other in OTHER_NAMES:
            if (root / other).is_dir():
                raise DataError(
                    f"{root}: holds train/ and {other}/, whose images would not be used; call that "
                    "folder val/"
                )
        _refuse_unused(root, spec.masks)
    one = spec.num_classes == 1
    train = _by_class(root, "train/" if "train" in names else "", one)
    val = _by_class(root, "val/", one) if {"train", "val"} <= names else {}
    classes = list(train)
    if val:
        _compare_classes(root, train, val)
    if len(classes) != spec.num_classes:
        there = (
            "no class folders"
            if classes == [""]
            else f"{len(classes)} class folders ({named(classes)})"
        )
        raise DataError(
            f"{root}: `num_classes: {spec.num_classes}`, and there are {there}; `num_classes: 1` "
            "takes all images as one class"
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


def _refuse_unused(root: Path, masks: str | None) -> None:
    """Refuse folders of images beside a train/ alone: it may be a class of that name among others.

    A folder test/ may be there, which is never read.
    """
    known = {(root / name).resolve() for name in ("train", "test", masks or "train")}
    unused = [
        entry.name
        for entry in entries(root)
        if is_folder(entry)
        and Path(entry.path).resolve() not in known
        and next(images_below(root, f"{entry.name}/"), None) is not None
    ]
    if unused:
        raise DataError(
            f"{root}: the images of {named(unused)} would not be used, because the folder train/ "
            "beside them is taken for the training split; if it is a class, give it another name, "
            "else move the others away"
        )


def unread_images(root: Path, without: Path | None) -> dict[str, str]:
    """Return the image files of formats that are not read, by name relative to root, with a reason.

    Args:
        root: folder of the images; of train/ and val/ alone, where they are there.
        without: folder that is left out: that of the masks.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    parts = [root / name for name in ("train", "val") if (root / "train").is_dir()] or [root]
    for part in parts:
        for folder, folders, files in os.walk(part, followlinks=True):
            seen.add(os.path.realpath(folder))  # a link may lead back
            folders[:] = [
                name
                for name in folders
                if name[0] != "."
                and Path(folder, name) != without
                and os.path.realpath(Path(folder, name)) not in seen
            ]
            for file in files:
                reason = unread_format(file)
                if reason and file[0] != ".":
                    found[Path(folder, file).relative_to(root).as_posix()] = reason
    return dict(sorted(found.items()))


def unread_format(name: str) -> str | None:
    """Return why a file that is a picture by its suffix is not read; None for all other files."""
    suffix = os.path.splitext(name)[1].lower()
    return f"{suffix} files are not read, .jpg, .png and .webp are" if suffix in UNREAD else None


def named(items: Collection[str]) -> str:
    """Return the first few of many names as text."""
    shown = ", ".join(list(items)[:NAMED])
    return shown + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")


def _by_class(root: Path, prefix: str, one: bool) -> ByClass:
    """Return the images of a split; class folders may have subfolders. one: there is one class."""
    found, where = entries(root / prefix), root / prefix
    folders = [entry.name for entry in found if is_folder(entry)]
    flat = [f"{prefix}{e.name}" for e in found if is_image(e.name) and not is_folder(e)]
    if one and len(folders) + bool(flat) > 1:
        return {"": sorted(images_below(root, prefix))}
    if flat and folders:
        raise DataError(
            f"{where}: holds images ({named(flat)}) and folders ({named(folders)}); put every "
            "image into the folder of its class, or all of them into one folder"
        )
    if not flat and not folders:
        raise DataError(f"{where}: holds no images (.jpg, .jpeg, .png, .webp) and no class folders")
    if flat:
        return {"": flat}
    classes = {name: sorted(images_below(root, f"{prefix}{name}/")) for name in folders}
    if empty := [name for name, images in classes.items() if not images]:
        raise DataError(f"{where}: no images in the class folders {named(empty)}")
    return classes


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
