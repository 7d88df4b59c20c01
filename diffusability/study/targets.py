"""The files of a study as a whole: tables, figures, report, and how scripts are told of it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffusability.study.figures import FIGURE_FORMATS, FIGURE_NAMES
from diffusability.study.plan import Plan
from diffusability.study.stages import RESULTS, STAGES
from diffusability.study.study import Study
from diffusability.study.tables import ANALYSIS_TABLES, CLAIMS_TABLE, COLLECTED_TABLES, TABLES

__all__ = ["ANALYSIS_TABLES", "CLAIMS_TABLE", "COLLECTED_TABLES", "FIGURE_FORMATS", "FIGURE_NAMES"]

CLAIMS = "claims.yaml"  # what the paper says, as data
FISHER_CLAIMS = "claims_fisher.yaml"  # what the second paper says of its toys
LATENT_CLAIMS = "claims_latents.yaml"  # and of the latent spaces of images
TABLE_NAMES = tuple(TABLES)


def table_folder(study: Study) -> str:
    """Return the folder of the study's tables."""
    return f"{RESULTS}/tables/{study.name}"


def table_file(study: Study, name: str) -> str:
    """Return the path of one of the study's tables."""
    return f"{table_folder(study)}/{name}.csv"


def table_files(study: Study, *names: str) -> list[str]:
    """Return the paths of the named tables, or of all."""
    return [table_file(study, name) for name in names or TABLE_NAMES]


def figure_files(study: Study, *names: str) -> list[str]:
    """Return the paths of the named figures, or of all, in every format."""
    return [
        f"{RESULTS}/figures/{study.name}/{name}.{kind}"
        for name in names or FIGURE_NAMES
        for kind in FIGURE_FORMATS
    ]


def picture_files(plan: Plan) -> list[str]:
    """Return the paths of reconstructions and samples, in planning order."""
    return [
        f"{artifact.path}/{name}"
        for artifact in plan
        for name in STAGES[artifact.stage].outputs
        if name.endswith(".png")
    ]


def report_file(study: Study) -> str:
    """Return the path of the study's report."""
    return f"{RESULTS}/{study.report or f'report-{study.name}.html'}"


def study_arguments(files: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """Return the arguments with which a script resolves the same study, quoted for a shell."""
    arguments = [part for file in files for part in ("--study", file)]
    if overrides:
        arguments += ["--config", json.dumps(dict(overrides), sort_keys=True)]
    return shlex.join(arguments)
