"""Collect every measurement of a study, and the profiles of its trajectories, in tidy tables."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.profiles import collect_profiles
from diffusability.analysis.tidy import tabulate, write_tables
from diffusability.figures.command import run
from diffusability.study.plan import Plan


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write measurements.csv and profiles.csv."""
    write_tables(outputs, {"measurements": tabulate(plan), "profiles": collect_profiles(plan)})


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
