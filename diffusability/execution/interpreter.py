"""Which Python the workflow's jobs run."""

import os
import sys


def put_interpreter_on_path() -> None:
    """Let jobs find the interpreter that runs Snakemake, activated or not, by the name `python`.

    The rules say `python` and not a full path: a path in a shell command would make every job run
    again when the environment moves.
    """
    folder = os.path.dirname(sys.executable)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
