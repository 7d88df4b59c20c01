"""Relate every latent metric to every generation metric, with intervals."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.correlation import correlate
from diffusability.analysis.tables import read_measurements
from diffusability.analysis.tidy import write_table
from diffusability.figures.command import run
from diffusability.study.plan import Plan
from diffusability.study.targets import table_files


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write correlations.csv from measurements.csv."""
    measurements = read_measurements(Path(table_files(plan.study)[0]))
    write_table(outputs[0], correlate(measurements, plan.study.analysis))


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
