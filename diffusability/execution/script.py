"""The command line of the scripts that work on a whole study: tables, figures, report."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from diffusability.artifacts.result_card import hashes, write_result_card
from diffusability.errors import DiffusabilityError, StudyError
from diffusability.study.load import load_study
from diffusability.study.plan import Plan
from diffusability.study.workflow_files import default_study

Work = Callable[[Plan, list[Path]], None]
Reads = Callable[[Plan], Iterable[str]]


def run(
    work: Work, reads: Reads, description: str | None, argv: Sequence[str] | None = None
) -> int:
    """Resolve the study, call `work(plan, outputs)`, and return the process's exit status.

    Args:
        work: writes the files. reads: returns the files that `work` reads, for the card.
        description: of the script. argv: arguments; by default those of the process.
    """
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
        inputs = hashes(map(Path, reads(plan)))
        work(plan, arguments.output)
        write_result_card(arguments.output, inputs, plan.study.name, plan.fingerprint)
    except DiffusabilityError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
