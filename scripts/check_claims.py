"""Give a verdict on every claim of both papers on latent spaces from the tables of a study."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.claims import load_claims
from diffusability.analysis.network_claims import check_by_network
from diffusability.analysis.tidy import read_table, write_tables
from diffusability.figures.command import run
from diffusability.study.plan import Plan
from diffusability.study.targets import ANALYSIS_TABLES, CLAIMS_TABLE, table_file
from diffusability.study.workflow_files import CLAIMS, LATENT_CLAIMS


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write claims.csv."""
    tables = {name: read_table(Path(table_file(plan.study, name))) for name in ANALYSIS_TABLES}
    claims = [*load_claims(CLAIMS), *load_claims(LATENT_CLAIMS)]
    write_tables(outputs, {CLAIMS_TABLE: check_by_network(claims, tables)})


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
