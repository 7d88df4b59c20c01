"""Stage `dataset`: look at every image once, and state what the study will see."""

from pathlib import Path
from typing import Annotated, Any

from diffusability.artifacts.atomic import write_json
from diffusability.data.load import DataSource
from diffusability.stages.inputs import Inputs
from diffusability.study.dataset import DATASETS, Dataset


def make(inputs: Inputs, spec: Annotated[Dataset, DATASETS], out: Path) -> None:
    """Write manifest.json: counts by class and split, image shape, and a hash of it all.

    Of an image folder also index.json, the files by name.
    """
    source: DataSource[Any] = DATASETS.code(spec)(spec)
    data, notes = source.prepare(out, inputs.job.path)
    counts = {
        split: data.labels[data.split(split)].bincount(minlength=data.num_classes).tolist()
        for split in ("train", "val")
    }
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
