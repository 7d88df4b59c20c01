"""Make every table of the analysis from the collected tables alone."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.analyse import analyse
from diffusability.analysis.tables import read_measurements
from diffusability.analysis.tidy import read_table, write_tables
from diffusability.figures.command import run
from diffusability.study.plan import Plan
from diffusability.study.targets import COLLECTED_TABLES, table_files


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write the tables that the outputs are named after."""
    measurements, *others = map(Path, table_files(plan.study, *COLLECTED_TABLES))
    profiles, spectra = map(read_table, others)
    tables = analyse(read_measurements(measurements), profiles, plan.study.analysis, spectra)
    write_tables(outputs, tables)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
