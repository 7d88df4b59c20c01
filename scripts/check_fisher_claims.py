"""Give a verdict on every claim on toy data from the table of the toy study."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffusability.analysis.claims import load_claims
from diffusability.analysis.fisher_findings import check_fisher_claims
from diffusability.analysis.frames import write_tables
from diffusability.artifacts.result_card import check_result, hashes, write_result_card
from diffusability.errors import DiffusabilityError
from diffusability.study.fisher_toy import FISHER_TOY
from diffusability.study.workflow_files import FISHER_CLAIMS


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="table of the toy study")
    parser.add_argument("--output", type=Path, required=True, help="table of verdicts to write")
    arguments = parser.parse_args(argv)
    try:
        check_result(arguments.table)
        inputs = hashes([arguments.table])
        verdicts = check_fisher_claims(load_claims(FISHER_CLAIMS), pd.read_csv(arguments.table))
        write_tables([arguments.output], {arguments.output.stem: verdicts})
        write_result_card([arguments.output], inputs, FISHER_TOY, "")
    except DiffusabilityError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
