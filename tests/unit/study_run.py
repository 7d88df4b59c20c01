"""Make every artifact of a small study in this process, as the scripts would."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusability.artifacts.job import Job
from diffusability.stages.make import make
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import merge, read_yaml
from diffusability.study.reading.resolve import resolve_study
from tests.conftest import REPOSITORY

TINY = merge(
    read_yaml(REPOSITORY / "studies" / "smoke.yaml"),
    {
        "encoders": {name: {"train": {"steps": 2}} for name in ("glyph", "judge")},
        "bases": {"conv-f2d4": {"train": {"steps": 2}}},
        "backbones": {"sit-a": {"train": {"steps": 2}}},
        "sampling": {"evaluations": 2, "count": 40},
        "select": {"backbones": ["sit-a"]},
    },
)


def plan_of(over: Mapping[str, Any]) -> Plan:
    """Return the plan of the smoke study at two training steps with `over` laid on top."""
    return Plan(resolve_study(merge(TINY, over), "test"))


def run_plan(plan: Plan, *stages: str) -> dict[str, Path]:
    """Make the artifacts of the stages, or of all, and what they need; folders by stage/name.

    What is there already is not made again.
    """
    wanted = list(plan.of_stage(*stages)) if stages else list(plan)
    needed: dict[str, Any] = {}
    while wanted:
        artifact = wanted.pop()
        needed[artifact.path] = artifact
        wanted += artifact.upstream.values()
    made = {}
    for artifact in plan:
        if artifact.path in needed:
            if not Path(artifact.card).exists():
                job = Job.from_json(artifact.job())
                with job.writing() as folder:
                    make(job, folder)
            made[f"{artifact.stage}/{artifact.name}"] = Path(artifact.path)
    return made


def measurements(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the measurements of an artifact by metric."""
    cells = json.loads((folder / "measurements.json").read_text())
    return {cell["metric"]: cell for cell in cells}
