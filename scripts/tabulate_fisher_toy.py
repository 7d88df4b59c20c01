"""Collect every curve of the toy study, with that of its data, in one table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.result_card import hashes, write_result_card
from diffusability.errors import DiffusabilityError, StudyError
from diffusability.fisher.toy_table import toy_table
from diffusability.study.fisher_toy import FISHER_TOY, FisherToyPlan, load_fisher_toy


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True, help="file of the toy study")
    parser.add_argument("--fingerprint", help="refuse to run if the study's differs")
    parser.add_argument("--output", type=Path, required=True, help="table to write")
    arguments = parser.parse_args(argv)
    try:
        plan = FisherToyPlan(load_fisher_toy(arguments.study))
        if arguments.fingerprint not in (None, plan.fingerprint):
            raise StudyError(f"{arguments.study}: was edited while the workflow ran; run it again")
        inputs = hashes(Path(artifact.path, "curve.csv") for artifact in plan)
        table = toy_table(plan).to_csv(index=False, lineterminator="\n")
        write_bytes(arguments.output, table.encode())
        write_result_card([arguments.output], inputs, FISHER_TOY, plan.fingerprint)
    except DiffusabilityError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
