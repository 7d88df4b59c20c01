"""Collect every measurement of a study in one tidy table."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.tidy import tabulate, write_table
from diffusability.figures.command import run
from diffusability.study.plan import Plan


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write measurements.csv."""
    write_table(outputs[0], tabulate(plan))


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
