"""Give a verdict on every claim of claims.yaml from the tables of a study."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.claims import check_claims, load_claims
from diffusability.analysis.tidy import read_table, write_tables
from diffusability.figures.command import run
from diffusability.study.plan import Plan
from diffusability.study.targets import ANALYSIS_TABLES, CLAIMS, CLAIMS_TABLE, table_file


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write claims.csv."""
    tables = {name: read_table(Path(table_file(plan.study, name))) for name in ANALYSIS_TABLES}
    write_tables(outputs, {CLAIMS_TABLE: check_claims(load_claims(CLAIMS), tables)})


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
