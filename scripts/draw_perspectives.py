"""Draw every headline metric against generation quality."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.analysis.headline import target_metric
from diffusability.analysis.tidy import read_tables
from diffusability.figures.command import run
from diffusability.figures.perspectives import draw_perspectives
from diffusability.figures.style import write_figure
from diffusability.study.plan import Plan


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write the figure in every format asked for."""
    tables = read_tables(plan)
    figure = draw_perspectives(
        tables["measurements"], tables["correlations"], target_metric(plan.study)
    )
    write_figure(figure, outputs)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
