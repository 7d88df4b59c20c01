"""Environment of jobs: interpreter, package, workflow folder and run."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusability.errors import StudyError
from diffusability.execution import snakemake_adapter
from diffusability.execution.gpus import SUBMITTED
from diffusability.study.core import commands, workflow_files
from diffusability.study.core.workflow_files import PACKAGE, default_study, is_workflow


def prepare_jobs(workflow: Any, files: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Set the environment variables of all jobs of this workflow, also of jobs on other machines.

    Args:
        workflow: Snakemake's. files: of the study, relative to the working directory.
        overrides: override them.

    Raises:
        StudyError: the jobs' environments would not hold this package.
    """
    _put_interpreter_on_path()
    _put_package_on_path(snakemake_adapter.uses_conda(workflow))
    if not snakemake_adapter.starts_run(workflow):
        # a submitted job, if the environment of the run was not passed on to it
        os.environ.setdefault(SUBMITTED, "1")
    os.environ[workflow_files.VARIABLE] = str(snakemake_adapter.workflow_folder(workflow))
    # a job on another machine prints the command of its run, not its own
    if snakemake_adapter.starts_run(workflow) or commands.VARIABLE not in os.environ:
        commands.set_run(_run(workflow, files, overrides))


def say_who_shares_gpus(workflow: Any) -> None:
    """Tell jobs whether a scheduler gives them GPUs, or they take free ones; see `gpus`.

    Call it when the run starts: Snakemake knows its executor only then.
    """
    os.environ[SUBMITTED] = str(int(snakemake_adapter.submits_jobs(workflow)))


def _run(workflow: Any, files: Sequence[str], overrides: Mapping[str, Any]) -> commands.Run:
    """Return the arguments that start this run again."""
    directory = snakemake_adapter.given_directory(workflow)
    snakefile = snakemake_adapter.snakefile(workflow)
    found = not directory and snakefile == Path("Snakefile").absolute()
    if snakemake_adapter.is_module(
        workflow
    ):  # the study is in the Snakefile that uses this one as a module
        files, overrides = (), {}
    if list(files) == [default_study()]:
        files = ()
    if directory:  # Snakemake resolves study files in the folder where it is started
        files = [str(Path(file).absolute()) for file in files]
    return commands.Run(files, overrides, "" if found else str(snakefile), directory)


def _put_interpreter_on_path() -> None:
    """Let jobs find Snakemake's interpreter as `python`, with or without activation.

    The rules say `python` and not a full path: a path in a shell command would make every job run
    again when the environment moves.
    """
    folder = os.path.dirname(sys.executable)
    _prepend("PATH", folder, os.defpath)


def _put_package_on_path(conda: bool) -> None:
    """Let jobs in an environment of conda import the package of this checkout.

    An installed package is not made available to other interpreters, because its folder also holds
    all other packages of its own interpreter.
    """
    if is_workflow(PACKAGE.parent):
        _prepend("PYTHONPATH", str(PACKAGE.parent), "")
    elif conda:
        raise StudyError(
            "--sdm conda: its environments do not contain the package `diffusability`, which is "
            f"installed in {PACKAGE.parent}; run without --sdm conda, or from a checkout"
        )


def _prepend(variable: str, folder: str, default: str) -> None:
    """Put a folder first in a list of folders, once."""
    rest = os.environ.get(variable, default).split(os.pathsep)
    kept = [entry for entry in rest if entry and entry != folder]
    os.environ[variable] = os.pathsep.join([folder, *kept])
