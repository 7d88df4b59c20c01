"""Pictures in a report: a selection, small enough to be embedded."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from diffusability.analysis.catalogue import name_metric
from diffusability.analysis.measurements import control_of
from diffusability.study.planning.plan import Artifact, Plan

# pixels: the widest grid of small images fits; larger ones are shrunk, and the originals are in
# the artifacts
LONGEST_SIDE = 820
QUALITY = 70  # JPEG quality of a shrunk picture, out of 100


def tokenizer_pictures(plan: Plan, tokenizer: str, target: str) -> dict[str, Any]:
    """Return name, cluster and pictures of one tokenizer, with their quality.

    Reconstructions are shown for every training of the tokenizer. Samples are shown only for its
    first training and the first seed of each diffusion model, at the smallest guidance scale and at
    the best one for `target`, because the paper's study has thousands of grids. Images that add
    most and least to the FIR of a model are shown of the same models.
    """
    own = [artifact for artifact in plan if artifact.labels.get("tokenizer") == tokenizer]
    return {
        "name": tokenizer,
        "cluster": plan.study.tokenizers[tokenizer].cluster,
        "reconstructions": [
            {
                "name": f"seed {artifact.labels['tokenizer_seed']}",
                "source": inline_picture(Path(artifact.path, "reconstructions.png")),
                "quality": _quality(artifact, "reconstruction.psnr", "reconstruction.ssim"),
            }
            for artifact in own
            if artifact.stage == "reconstruction"
        ],
        "samples": [
            {
                "backbone": a.labels["backbone"],
                "name": f"{a.labels['backbone']}, seed {a.labels['seed']}, "
                f"guidance {a.labels['guidance']}",
                "source": inline_picture(Path(a.upstream["samples"].path, "samples.png")),
                "quality": _quality(a, target, "generation.class_accuracy_"),
            }
            for a in shown_samples(_generations(own), target)
        ],
        "fir_images": [
            {
                "name": a.labels["backbone"],
                "source": inline_picture(Path(a.path, "fir_images.png")),
                "quality": _quality(a, "fisher.learned_fir_unconditional"),
            }
            for a in _first_runs([a for a in own if a.stage == "learned_fisher"])
        ],
    }


def _generations(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Return the measurements of samples of diffusion models at their last step."""
    return [
        a
        for a in artifacts
        if a.stage == "generation" and control_of(a) is None and not a.labels["snapshot"]
    ]


def _first_runs(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Return the first artifact of each backbone."""
    found: dict[str, Artifact] = {}
    for artifact in artifacts:
        found.setdefault(artifact.labels["backbone"], artifact)
    return list(found.values())


def shown_samples(generations: Sequence[Artifact], target: str) -> list[Artifact]:
    """Return the generations of one tokenizer whose samples are shown, in order."""
    first: dict[str, list[Artifact]] = {}  # of each backbone
    for artifact in generations:
        of_one = first.setdefault(artifact.labels["backbone"], [artifact])
        if artifact is not of_one[0] and _run(artifact) == _run(of_one[0]):
            of_one.append(artifact)
    chosen = []
    for scales in first.values():
        smallest = min(scales, key=lambda a: float(a.labels["guidance"]))
        best = min(scales, key=lambda a: _loss(a, target))
        chosen += [a for a in scales if a is smallest or a is best]
    return chosen


def inline_picture(path: Path) -> str:
    """Return a picture as a data URI: lossless if small, else shrunk and compressed."""
    with Image.open(path) as picture:
        small = max(picture.size) <= LONGEST_SIDE
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        packed = io.BytesIO()
        picture.convert("RGB").save(packed, "webp", lossless=small, quality=QUALITY)
    return inline(packed.getvalue(), "image/webp")


def inline(content: bytes, kind: str) -> str:
    """Return a file's content as a data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _run(artifact: Artifact) -> tuple[str, str]:
    return artifact.labels["tokenizer_seed"], artifact.labels["seed"]


def _loss(artifact: Artifact, target: str) -> float:
    """Return the target, negated if higher is better."""
    (found,) = (m for m in _measurements(artifact) if m["metric"] == target)
    if found["value"] is None:
        return float("inf")
    return -found["value"] if found["higher_is_better"] else float(found["value"])


def _quality(artifact: Artifact, *metrics: str) -> str:
    possible = [m for m in _measurements(artifact) if m["value"] is not None]
    return ", ".join(
        f"{name_metric(m['metric'])} {m['value']:.3g}" + (" dB" if m["unit"] == "dB" else "")
        for m in possible
        if m["metric"].startswith(metrics)
    )


def _measurements(artifact: Artifact) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        Path(artifact.path, "measurements.json").read_text(encoding="utf-8")
    )
    return found
