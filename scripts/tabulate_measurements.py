"""Collect every measurement of a study, its trajectories and its spectra in tidy tables."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.analyse import collect
from diffusability.analysis.frames import write_tables
from diffusability.execution.result_script import run
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import STAGES


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write the tables named by the outputs."""
    write_tables(outputs, collect(plan))


def reads(plan: Plan) -> list[str]:
    """Return the files that are read."""
    return [
        f"{artifact.path}/{name}"
        for artifact in plan
        for name in ("measurements.json", "samples.json")
        if name in STAGES[artifact.stage].outputs
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, reads, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
