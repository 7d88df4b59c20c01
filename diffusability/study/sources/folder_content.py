"""Identity of a folder of images: a hash of the names and bytes of its image files.

The folder's own name and place are no part of it, nor are hidden files and files of other kinds.
Every file is read once. Afterwards a look at names, sizes, times and inodes suffices: the digest is
remembered in the user's cache for the listing that it belongs to.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from diffusability.errors import DataError
from diffusability.study.core.fingerprint import canonical_json
from diffusability.study.core.user_cache import cached, recall, remember
from diffusability.study.sources.content import SETTLED, UNREADABLE, file_digests

SMALL = 20_000  # images
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")  # in lower case


def is_image(name: str) -> bool:
    """Return whether a file counts as an image, by its suffix (case-insensitive)."""
    return name.lower().endswith(SUFFIXES)


def is_hidden(member: str) -> bool:
    """Return whether a file, or a member of an archive, is hidden, as what macOS adds is."""
    parts = member.split("/")
    return any(part == "__MACOSX" or (part[:1] == "." and part.strip(".")) for part in parts)


def images_identity(path: str, masks: str | None) -> str | None:
    """Return the identity of a folder of images and of the folder of their masks, if any.

    A folder that is not there now has the identity that it last had at this place.

    Returns:
        64 hexadecimal digits, or None where no image was ever seen at `path`.
    """
    images = folder_digest(path, split=True)
    if images is None or masks is None:
        return images
    return joint_digest(images, folder_digest(masks, split=False))


def joint_digest(images: str, masks: str | None) -> str:
    """Return the identity of images with masks, from the `names_digest` of both."""
    return hashlib.sha256(canonical_json([images, masks]).encode()).hexdigest()


def names_digest(digests: Mapping[str, str]) -> str:
    """Return one SHA-256 of the digests of files by their relative names, in any order."""
    digest = hashlib.sha256()
    for name in sorted(digests):
        digest.update(canonical_json([name, digests[name]]).encode())
    return digest.hexdigest()


def is_small(folder: str) -> bool:
    """Return whether a folder exists with so few images that they can be hashed at every start."""
    root = Path(folder)
    names = images_below(root) if root.is_dir() else iter(())
    count = sum(1 for _ in islice(names, SMALL + 1))
    return 0 < count <= SMALL


def dataset_images(root: Path) -> Iterator[str]:
    """Yield the images of a dataset: of train/ and val/ where there is a train/, else all."""
    if not (root / "train").is_dir():
        yield from images_below(root)
        return
    yield from images_below(root, "train/")
    if (root / "val").is_dir():
        yield from images_below(root, "val/")


def count_images(folder: str) -> tuple[int, int | None] | None:
    """Return the number of image files in train/ and in val/, or None without a folder.

    Without train/, all files are of training; without val/, the second number is None. The numbers
    are remembered until a file is added to or removed from one of the folders of classes.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        return None
    splits = ("train", "val") if (root / "train").is_dir() else ("",)
    folders = [root / split for split in splits if (root / split).is_dir()]
    folders += [Path(entry.path) for top in folders for entry in entries(top) if is_folder(entry)]
    times = [(str(path), path.stat().st_mtime_ns) for path in folders]
    listing = hashlib.sha256(canonical_json(times).encode()).hexdigest()
    memory = cached("content", f"{hashlib.sha256(str(root).encode()).hexdigest()[:32]}.counts.json")
    known = recall(memory)
    if known.get("listing") != listing:
        numbers = [
            sum(1 for _ in images_below(root, f"{split}/" if split else ""))
            if (root / split).is_dir()
            else None
            for split in splits
        ]
        known = {"listing": listing, "numbers": numbers}
        remember(memory, known)
    train, *val = known["numbers"]
    return train, val[0] if val else None


def images_below(root: Path, prefix: str = "") -> Iterator[str]:
    """Yield the names, relative to `root`, of all image files below its folder `prefix`.

    Raises:
        DataError: a link leads back to a folder that holds it.
    """
    for entry in entries(root / prefix):
        name = f"{prefix}{entry.name}"
        if is_folder(entry):
            if entry.is_symlink() and _holds(entry, root / prefix):
                raise DataError(f"{root / name}: links to a folder that holds it; remove the link")
            yield from images_below(root, f"{name}/")
        elif is_image(entry.name):
            yield name


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without hidden ones.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            shown = [entry for entry in found if not is_hidden(entry.name)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    return sorted(shown, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _holds(outer: os.DirEntry[str], inner: Path) -> bool:
    return Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(outer.path))


def folder_digest(folder: str, split: bool) -> str | None:
    """Return the `names_digest` of a folder's images, read unless the listing is remembered.

    With `split`, only train/ and val/ count where there is a train/. Of a folder that is not there,
    return the last one; None where no image was ever seen.
    """
    root = Path(folder).absolute()
    key = hashlib.sha256(f"{root}\n{split}".encode()).hexdigest()[:32]
    memory = cached("content", f"{key}.listing.json")
    known = recall(memory)
    if not root.is_dir():
        content = known.get("content")
        return content if isinstance(content, str) else None
    names = sorted(dataset_images(root) if split else images_below(root))
    if not names:
        return None
    listing, changed = _listing(root, names)
    if known.get("listing") == listing and isinstance(known.get("content"), str):
        return str(known["content"])
    digests = file_digests(root, names)
    content = names_digest(digests)
    # a file that cannot be read now may be readable later, without a trace in the listing
    if UNREADABLE not in digests.values() and time.time_ns() - changed > SETTLED:
        remember(memory, {"listing": listing, "content": content})
    return content


def _listing(root: Path, names: Iterable[str]) -> tuple[str, int]:
    """Return a hash of what the file system says of files, and the last time one changed, in ns."""
    digest, changed = hashlib.sha256(), 0
    for name in names:
        try:
            found = os.stat(f"{root}/{name}")
        except OSError:
            return "", time.time_ns()  # never remembered
        row = [name, found.st_size, found.st_mtime_ns, found.st_ino]
        digest.update(canonical_json(row).encode())
        changed = max(changed, found.st_mtime_ns)
    return digest.hexdigest(), changed
