"""The command line of the scripts that work on a whole study: tables, figures, report."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from diffusability.errors import DiffusabilityError, StudyError
from diffusability.study.load import load_study
from diffusability.study.plan import Plan
from diffusability.study.workflow_files import default_study

Work = Callable[[Plan, list[Path]], None]


def run(work: Work, description: str | None, argv: Sequence[str] | None = None) -> int:
    """Resolve the study, call `work(plan, outputs)`, and return the process's exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--study", action="append", help="study file; may be given again")
    parser.add_argument("--config", type=json.loads, default={}, help="overrides, as JSON")
    parser.add_argument("--fingerprint", help="refuse to run if the study's is another")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="file(s) to write")
    arguments = parser.parse_args(argv)
    files = arguments.study or [default_study()]
    try:
        plan = Plan(load_study(files, arguments.config))
        if arguments.fingerprint not in (None, plan.fingerprint):
            raise StudyError(f"{' '.join(files)}: was edited while the workflow ran; run it again")
        work(plan, arguments.output)
    except DiffusabilityError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
