"""The commands that messages print: each whole, as it works for the study and folder at hand."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from diffusability.study.core.workflow_files import PACKAGE, is_workflow

VARIABLE = "DIFFUSABILITY_RUN"  # hands the run on to its jobs


@dataclass(frozen=True)
class Run:
    """What a command has to name, so that it works on the same study in the same folder.

    Attributes:
        files: study files; none where the default study is meant.
        overrides: laid on top of them.
        snakefile: absolute path; empty where Snakemake finds it by itself.
        directory: absolute path; empty for the folder in which the command is typed.
    """

    files: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    snakefile: str = ""
    directory: str = ""


def set_run(run: Run) -> None:
    """State the run that this process and its children work for."""
    os.environ[VARIABLE] = json.dumps(asdict(run), sort_keys=True)


def current_run() -> Run:
    """Return the run that was stated, or that of the default study in this folder."""
    return Run(**json.loads(os.environ.get(VARIABLE, "{}")))


def snakemake_command(*words: str) -> str:
    """Return the whole command that has Snakemake do what `words` say, quoted for a shell."""
    run = current_run()
    command = ["snakemake", *words]
    command += ["--snakefile", run.snakefile] if run.snakefile else []
    command += ["--directory", run.directory] if run.directory else []
    command += ["--configfile", *run.files] if run.files else []
    return shlex.join([*command, *_config(run.overrides)])


def diffusability_command(*words: str) -> str:
    """Return the whole command of the `diffusability` program for the study at hand."""
    run = current_run()
    command = ["diffusability", *words]
    command += [part for file in run.files for part in ("--configfile", file)]
    command += _config(run.overrides)
    moved = f"cd {shlex.quote(run.directory)} && " if run.directory else ""
    return moved + shlex.join(command)


def study_arguments(files: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """Return the arguments with which a script resolves the same study, quoted for a shell."""
    arguments = [part for file in files for part in ("--study", file)]
    return shlex.join([*arguments, *_config(overrides)])


def _config(overrides: Mapping[str, Any]) -> list[str]:
    """Return the option that lays values on top of a study; JSON is YAML too."""
    pairs = [f"{key}={json.dumps(v, ensure_ascii=False)}" for key, v in sorted(overrides.items())]
    return ["--config", *pairs] if pairs else []


def install_command(extra: str) -> str:
    """Return the command that installs what an extra of this package needs.

    In a checkout that is the package itself with the extra; the package is on no index, so an
    installed one names what the extra consists of.
    """
    root = PACKAGE.parent
    if is_workflow(root):
        where = "." if root == Path.cwd() else str(root)
        return f'pip install -e "{where}[{extra}]"'
    found = requires("diffusability") or []
    needed = [line.partition(";")[0].strip() for line in found if f"extra == '{extra}'" in line]
    return shlex.join(["pip", "install", *needed])
