"""Stage `dataset`: look at every image once, and state what the study will see."""

import os
from pathlib import Path
from typing import Annotated, Any

from diffusability.artifacts.atomic import write_json
from diffusability.data.load import DataSource
from diffusability.stages.inputs import Inputs
from diffusability.study.core.commands import VARIABLE, current_run
from diffusability.study.entries.dataset import DATASETS, Dataset
from diffusability.study.preflight.class_sizes import check_classes
from diffusability.study.reading.load import load_study
from diffusability.study.study import Study


def _study_at_hand(spec: Dataset) -> Study | None:
    """Return the study that the workflow runs, if it is known here and uses this dataset."""
    if VARIABLE not in os.environ:
        return None
    run = current_run()
    study = load_study(run.files or None, run.overrides)
    return study if study.dataset.canonical() == spec.canonical() else None


def make(inputs: Inputs, spec: Annotated[Dataset, DATASETS], out: Path) -> None:
    """Write manifest.json: counts by class and split, image shape, and a hash of it all.

    A study whose metrics need more images than there are stops here, before its first training.

    Of an image folder also index.json, the files by name.
    """
    source: DataSource[Any] = DATASETS.code(spec)(spec)
    data, notes = source.prepare(out, inputs.job.path)
    counts = {
        split: data.labels[data.split(split)].bincount(minlength=data.num_classes).tolist()
        for split in ("train", "val")
    }
    if study := _study_at_hand(spec):
        check_classes(study, counts)
    write_json(
        out / "manifest.json",
        {
            "spec": dict(inputs.job.spec),
            "images": len(data.labels),
            "shape": list(data.images.shape[1:]),
            "classes": data.num_classes,
            "images_by_class": counts,
            **notes,
        },
    )
