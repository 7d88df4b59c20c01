"""Collect every measurement of a study, its trajectories and its spectra in tidy tables."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.analyse import collect
from diffusability.analysis.frames import write_tables
from diffusability.execution.script import run
from diffusability.study.plan import Plan


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write the tables named by the outputs."""
    write_tables(outputs, collect(plan))


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
