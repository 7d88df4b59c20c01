"""Stands in for scripts/make.py: the same command line, an artifact of a few bytes.

Numbers follow from the tokenizer's name; a share SIMULATED_FAILURES of all attempts fails in the
middle.
"""

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

from diffusability.artifacts.bulk import cache_folder, evicted, shard_name
from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.study.core.names import distance_name
from diffusability.study.planning.stages import BULK, STAGES

METRICS: dict[str, tuple[tuple[str, bool | None], ...]] = {
    "velocity": (("viv", False), ("tau", False)),
    "semantics": (("lnc5", True),),
    "spatial": (("srss", True), ("rmsc", True)),
    "smoothness": (("sec25", False),),
    "continuity": (("ifid", False),),
    "uniformity": (("cv", False),),
    "equivariance": (("rotation", False),),
    "reconstruction": (("psnr", True),),
    "fisher": (("fir", False),),
    "geometry": (("stretch_ratio", None),),
    "learned_fisher": (("learned_fir", False),),
}


def main() -> None:
    """Make the artifact of the job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--job", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--restore", action="store_true")
    arguments = parser.parse_args()
    stage, job = arguments.stage, Job.from_json(arguments.job)
    assert job.stage == stage
    assert (arguments.minutes is not None) == STAGES[stage].resumes
    with job.restoring() if arguments.restore else job.writing() as folder:
        for role in job.upstream:
            read = job.input(role)
            assert not evicted(read, read_card(read)), read
        for name in STAGES[stage].outputs:
            (folder / name).write_text(json.dumps(contents(job, name)))
        if stage in BULK:
            bulk = folder if STAGES[stage].bulk else cache_folder(stage, job.fingerprint)
            bulk.mkdir(parents=True, exist_ok=True)
            (bulk / shard_name(0)).write_text(job.name)
        attempt = (job.state / "attempts").read_text()
        rate = float(os.environ.get("SIMULATED_FAILURES", "0"))
        if random.Random(f"{job.fingerprint} {attempt}").random() < rate:
            raise SystemExit("simulated failure")


def contents(job: Job, name: str) -> Any:
    """Return what a file of the artifact holds, as JSON."""
    tokenizer = job.name.partition("/")[0]
    draw = random.Random(tokenizer)
    quality, own = draw.gauss(), random.Random(job.name)
    if name == "samples.json":
        return {"length_ratio": [0.9, 1.0, 1.1], "length_ratio_stderr": [0.1] * 3, "images": 10}
    if name == "latents.json":
        return {"images": 10, "images_per_shard": 10}
    if name != "measurements.json":
        return job.stage
    metrics = METRICS.get(job.stage)
    if metrics is None:
        extractor = Path(job.upstream["extractor"]["path"]).parent.name
        metrics = ((distance_name("fd", extractor), False),)
    prefix = "fisher" if job.stage == "learned_fisher" else job.stage
    return [
        {
            "metric": f"{prefix}.{metric}",
            "value": 10 + (1 if up else -1) * quality + 0.3 * own.gauss(),
            "stderr": 0.05,
            "n": 100,
            "unit": "1",
            "higher_is_better": up,
            "options": {},
            "flags": [],
        }
        for metric, up in metrics
    ]


if __name__ == "__main__":
    main()
