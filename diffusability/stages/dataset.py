"""Stage `dataset`: look at every image once, and state what the study will see."""

from pathlib import Path

from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.job import Job
from diffusability.data.load import load_spec


def make(job: Job, folder: Path) -> None:
    """Write manifest.json: counts by class and split, image shape, and a hash of it all."""
    data = load_spec(dict(job.spec))
    counts = {
        split: data.labels[data.split(split)].bincount(minlength=data.num_classes).tolist()
        for split in ("train", "val")
    }
    write_json(
        folder / "manifest.json",
        {
            "spec": dict(job.spec),
            "sha256": data.digest(),
            "images": len(data.labels),
            "shape": list(data.images.shape[1:]),
            "classes": data.num_classes,
            "images_by_class": counts,
            "foreground_share": data.masks.float().mean().item(),
        },
    )
