"""Scripts that make tables, figures and reports: their arguments, and cards of what they make."""

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from diffusability.artifacts.result_card import check_result, hashes, write_result_card
from diffusability.errors import StudyError, exit_status
from diffusability.study.core.workflow_files import default_study
from diffusability.study.fisher_toy import FISHER_TOY
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from diffusability.study.reading.yaml_file import read_overrides

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
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides"
    )
    parser.add_argument("--fingerprint", help="refuse to run if the study's is another")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="file(s) to write")
    arguments = parser.parse_args(argv)
    files = arguments.study or [default_study()]

    def make() -> None:
        plan = Plan(load_study(files, read_overrides(arguments.config)))
        check_unchanged(" ".join(files), plan.fingerprint, arguments.fingerprint)
        with with_card(arguments.output, reads(plan), plan.study.name, plan.fingerprint):
            work(plan, arguments.output)

    return exit_status(make)


def run_on_toy_table(
    work: Callable[[Path, list[Path]], None],
    description: str | None,
    argv: Sequence[str] | None = None,
) -> int:
    """Call `work(table, outputs)` on the table of the toy study; return the exit status.

    Args: those of `run`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--table", type=Path, required=True, help="table of the toy study")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="file(s) to write")
    arguments = parser.parse_args(argv)

    def make() -> None:
        check_result(arguments.table)
        with with_card(arguments.output, [arguments.table], FISHER_TOY, ""):
            work(arguments.table, arguments.output)

    return exit_status(make)


@contextlib.contextmanager
def with_card(
    outputs: Sequence[Path], reads: Iterable[str | Path], study: str, fingerprint: str
) -> Iterator[None]:
    """Hash what the block reads before it does, and write the card of its outputs after it."""
    inputs = hashes(map(Path, reads))
    yield
    write_result_card(outputs, inputs, study, fingerprint)


def check_unchanged(file: str, fingerprint: str, planned: str | None) -> None:
    """Refuse to go on with another study than the one that the workflow has planned.

    Raises:
        StudyError: its file was edited meanwhile.
    """
    if planned not in (None, fingerprint):
        raise StudyError(f"{file}: was edited while the workflow ran; run it again")
