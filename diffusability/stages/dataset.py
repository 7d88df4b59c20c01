"""Stage `dataset`: look at every image once, and state what the study will see."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from diffusability.artifacts.atomic import write_bytes, write_json
from diffusability.artifacts.job import Job
from diffusability.data.folder import open_folder
from diffusability.data.folder_index import build_index
from diffusability.data.images import ImageSet
from diffusability.data.load import INDEX, load_spec
from diffusability.errors import DataError
from diffusability.stages.inputs import Inputs
from diffusability.study.dataset import DatasetSpec, FolderDataset


def make(inputs: Inputs, spec: DatasetSpec, out: Path) -> None:
    """Write manifest.json: counts by class and split, image shape, and a hash of it all.

    Of an image folder also index.json, the files by name.
    """
    job = inputs.job
    if isinstance(spec, FolderDataset):
        data, notes = _index_folder(job, spec, out)
    else:
        data = load_spec(dict(job.spec))
        everything = data.masks[slice(None)]
        notes = {"sha256": data.digest(), "foreground_share": everything.float().mean().item()}
    counts = {
        split: data.labels[data.split(split)].bincount(minlength=data.num_classes).tolist()
        for split in ("train", "val")
    }
    write_json(
        out / "manifest.json",
        {
            "spec": dict(job.spec),
            "images": len(data.labels),
            "shape": list(data.images.shape[1:]),
            "classes": data.num_classes,
            "images_by_class": counts,
            **notes,
        },
    )


def _index_folder(job: Job, spec: FolderDataset, out: Path) -> tuple[ImageSet, dict[str, Any]]:
    """Write index.json; return the images and what the manifest says of a folder alone."""
    places = {
        key: os.path.abspath(job.local[key]) for key in ("path", "masks") if job.local.get(key)
    }
    spec = FolderDataset.model_validate({**spec.canonical(), **places})
    indexed = build_index(spec, torch.get_num_threads())
    digest = indexed.index.digest()
    _refuse_other_images(job, spec, digest)
    write_bytes(out / INDEX, indexed.index.to_json().encode())
    notes = {
        "sha256": digest,
        "foreground_share": indexed.foreground_share,
        "masks": len(indexed.index.masks),
        "damaged": dict(indexed.damaged),
        "places": places,
    }
    return open_folder(job.path, indexed.index, spec), notes


def _refuse_other_images(job: Job, spec: FolderDataset, digest: str) -> None:
    """Refuse to put other images under the name of those that results were made from."""
    try:
        before = json.loads((job.path / "manifest.json").read_text())["sha256"]
    except (OSError, ValueError, KeyError):
        return
    if before != digest:
        raise DataError(
            f"{spec.path}: holds other images than those that were indexed as `{spec.content}` in "
            f"{job.path}, and results may have been made from them. Name these ones with another "
            "`content`, or remove that folder"
        )
