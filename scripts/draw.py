"""Draw the figure named by the output: .../pairs.svg is `pairs`, as SVG."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.execution.result_script import run
from diffusability.figures.results import read_results
from diffusability.figures.style import write_figure
from diffusability.study.planning.figures import figure_named
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.targets import table_files


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write the figure in every requested format."""
    figure = figure_named(outputs[0].stem)
    write_figure(figure.function()(read_results(plan, figure.reads)), outputs)


def reads(plan: Plan) -> list[str]:
    """Return the files that are read."""
    return table_files(plan.study)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, reads, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
