"""Give a verdict on every claim of both papers on latent spaces from the tables of a study."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.frames import read_table, write_tables
from diffusability.analysis.snapshots import at_last_step
from diffusability.claims.claim import load_claims
from diffusability.claims.verdicts import check_claims
from diffusability.execution.result_script import run
from diffusability.study.core.workflow_files import CLAIMS, LATENT_CLAIMS
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.tables import ANALYSIS_TABLES, CLAIMS_TABLE, TABLES
from diffusability.study.planning.targets import table_file, table_files


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write claims.csv."""
    needed = TABLES[CLAIMS_TABLE].made_from
    read = [read_table(Path(table_file(plan.study, name))) for name in needed]
    tables = [at_last_step(table) for table in read]
    claims = [*load_claims(CLAIMS), *load_claims(LATENT_CLAIMS)]
    measurements, profiles, floor, findings = tables
    checked = check_claims(claims, measurements, profiles, floor, findings, plan.study.analysis)
    write_tables(outputs, {CLAIMS_TABLE: checked})


def reads(plan: Plan) -> list[str]:
    """Return the files that are read."""
    return table_files(plan.study, *ANALYSIS_TABLES)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, reads, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
