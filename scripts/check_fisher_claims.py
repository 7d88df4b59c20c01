"""Give a verdict on every claim on toy data from the table of the toy study."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffusability.analysis.frames import write_tables
from diffusability.claims.claim import load_claims
from diffusability.claims.fisher_findings import check_fisher_claims
from diffusability.execution.result_script import run_on_toy_table
from diffusability.study.core.workflow_files import FISHER_CLAIMS


def work(table: Path, outputs: list[Path]) -> None:
    """Write the table of verdicts."""
    verdicts = check_fisher_claims(load_claims(FISHER_CLAIMS), pd.read_csv(table))
    write_tables(outputs, {outputs[0].stem: verdicts})


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run_on_toy_table(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
