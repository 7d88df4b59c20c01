"""Collect every curve of the toy study, with that of its data, in one table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.artifacts.atomic import write_bytes
from diffusability.errors import exit_status
from diffusability.execution.result_script import check_unchanged, with_card
from diffusability.fisher.toy_table import toy_table
from diffusability.study.fisher_toy import FISHER_TOY, FisherToyPlan, load_fisher_toy


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True, help="file of the toy study")
    parser.add_argument("--fingerprint", help="refuse to run if the study's differs")
    parser.add_argument("--output", type=Path, required=True, help="table to write")
    arguments = parser.parse_args(argv)

    def make() -> None:
        plan = FisherToyPlan(load_fisher_toy(arguments.study))
        check_unchanged(arguments.study, plan.fingerprint, arguments.fingerprint)
        reads = [f"{artifact.path}/curve.csv" for artifact in plan]
        with with_card([arguments.output], reads, FISHER_TOY, plan.fingerprint):
            table = toy_table(plan).to_csv(index=False, lineterminator="\n")
            write_bytes(arguments.output, table.encode())

    return exit_status(make)


if __name__ == "__main__":
    sys.exit(main())
