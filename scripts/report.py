"""Put a study's headline, figures, pictures and tables on one page that opens offline."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusability.execution.script import run
from diffusability.report.page import write_page
from diffusability.study.plan import Plan


def work(plan: Plan, outputs: list[Path]) -> None:
    """Write the page."""
    write_page(plan, outputs[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
