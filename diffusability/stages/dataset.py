"""Stage `dataset`: look at every image once, and state what the study will see."""

from pathlib import Path

from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.job import Job
from diffusability.data.load import data_source


def make(job: Job, folder: Path) -> None:
    """Write manifest.json: counts by class and split, image shape, and a hash of it all.

    Of an image folder also index.json, the files by name.
    """
    data, notes = data_source(job.options).prepare(folder, job.path)
    counts = {
        split: data.labels[data.split(split)].bincount(minlength=data.num_classes).tolist()
        for split in ("train", "val")
    }
    write_json(
        folder / "manifest.json",
        {
            "spec": dict(job.spec),
            "images": len(data.labels),
            "shape": list(data.images.shape[1:]),
            "classes": data.num_classes,
            "images_by_class": counts,
            **notes,
        },
    )
