"""Put a study's headline, figures, pictures and tables on one page that opens offline."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.execution.result_script import run
from diffusability.report.page import write_page
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.targets import figure_files, table_files


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write the page."""
    write_page(plan, outputs[0])


def reads(plan: Plan) -> list[str]:
    """Return the files that are read."""
    return [*table_files(plan.study), *figure_files(plan.study)]


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, reads, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
