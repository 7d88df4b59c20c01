"""The files of a study as a whole: tables, figures and report."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from diffusability.study.planning.figures import FIGURE_FORMATS, FIGURES
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import RESULTS, STAGES
from diffusability.study.planning.tables import TABLES
from diffusability.study.study import Study


def table_names(study: Study, names: Sequence[str] = tuple(TABLES)) -> tuple[str, ...]:
    """Return those of the named tables that the study has, or all that it has."""
    return tuple(name for name in names if study.has_models or not TABLES[name].models)


def figure_names(study: Study) -> tuple[str, ...]:
    """Return the figures that the study has: those that show its data."""
    return tuple(name for name, figure in FIGURES.items() if figure.shows_data(study))


def table_folder(study: Study) -> str:
    """Return the folder of the study's tables."""
    return f"{RESULTS}/tables/{study.name}"


def table_file(study: Study, name: str) -> str:
    """Return the path of one of the study's tables."""
    return f"{table_folder(study)}/{name}.csv"


def table_files(study: Study, *names: str) -> list[str]:
    """Return the paths of the named tables, or of all that the study has."""
    return [table_file(study, name) for name in names or table_names(study)]


def figure_files(study: Study, *names: str) -> list[str]:
    """Return the paths of the named figures, or of all that the study has, in every format."""
    return [
        f"{RESULTS}/figures/{study.name}/{name}.{kind}"
        for name in names or figure_names(study)
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


def digest(*files: Path) -> str:
    """Return a hash of the content of files, which tells whether to look at them again.

    The rules compare it in the place of paths, which change when the workflow moves.
    """
    content = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
    return hashlib.sha256(content).hexdigest()[:12]
