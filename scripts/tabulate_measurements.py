"""Collect every measurement of a study, its trajectories and its spectra in tidy tables."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.profiles import collect_profiles
from diffusability.analysis.spectra import collect_spectra
from diffusability.analysis.tidy import tabulate, write_tables
from diffusability.figures.command import run
from diffusability.study.plan import Plan


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write measurements.csv, profiles.csv and spectra.csv."""
    tables = {"measurements": tabulate(plan), "profiles": collect_profiles(plan)}
    write_tables(outputs, {**tables, "spectra": collect_spectra(plan)})


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
