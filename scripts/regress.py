"""Make all tables of the analysis from the collected tables."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.analyse import analyse
from diffusability.analysis.frames import write_tables
from diffusability.analysis.measurements import read_tables
from diffusability.execution.result_script import run
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.tables import ANALYSIS_TABLES, COLLECTED_TABLES
from diffusability.study.planning.targets import table_files, table_names


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write the tables named by the outputs."""
    collected = read_tables(plan, table_names(plan.study, COLLECTED_TABLES))
    names = table_names(plan.study, ANALYSIS_TABLES)
    write_tables(outputs, analyse(collected, plan.study.analysis, names))


def reads(plan: Plan) -> list[str]:
    """Return the files that are read."""
    return table_files(plan.study, *COLLECTED_TABLES)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, reads, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
