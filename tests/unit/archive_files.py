"""Archives of the kinds that a study can name, of the images of a folder."""

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class Labelled(NamedTuple):
    """One image file: name, content and class."""

    name: str
    content: bytes
    label: int


def labelled(root: Path, split: str) -> list[Labelled]:
    """Return the images of a split of a folder, by class and name."""
    classes = sorted(folder for folder in (root / split).iterdir())
    return [
        Labelled(f"{folder.name}/{file.name}", file.read_bytes(), number)
        for number, folder in enumerate(classes)
        for file in sorted(folder.iterdir())
    ]


def write_zip(path: Path, images: Sequence[Labelled], labels: object = "own") -> None:
    """Write a zip with dataset.json; `labels` of None leaves that file out."""
    if labels == "own":
        labels = [[image.name, image.label] for image in images]
    with zipfile.ZipFile(path, "w") as archive:
        for image in images:
            archive.writestr(image.name, image.content)
        if labels is not None:
            archive.writestr("dataset.json", json.dumps({"labels": labels}))


def write_parquet(
    path: Path,
    images: Sequence[Labelled],
    plain: bool = False,
    group: int = 3,
    compression: str = "snappy",
) -> None:
    """Write Parquet as the hub does, with small row groups; `plain`: images as bare bytes."""
    structs = [{"bytes": image.content, "path": image.name} for image in images]
    column = [image.content for image in images] if plain else structs
    table = pa.table({"image": column, "label": [image.label for image in images]})
    pq.write_table(table, path, row_group_size=group, compression=compression)


def write_tar(path: Path, images: Sequence[Labelled], extension: str = "cls") -> None:
    """Write a shard with labels as `.cls`, as `.json`, or none."""
    with tarfile.open(path, "w") as archive:
        for image in images:
            stem = image.name.rpartition(".")[0]
            label = str(image.label) if extension == "cls" else json.dumps({"label": image.label})
            members = {image.name: image.content}
            if extension:
                members[f"{stem}.{extension}"] = label.encode()
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
