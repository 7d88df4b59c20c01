"""Draw the toy study's figures from its table: .../activations.svg is `activations`, as SVG."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffusability.execution.result_script import run_on_toy_table
from diffusability.figures.style import write_figure
from diffusability.lazy import load_code
from diffusability.study.fisher_toy import TOY_FIGURES


def work(table: Path, outputs: list[Path]) -> None:
    """Write every figure in every requested format."""
    curves = pd.read_csv(table)
    for name in dict.fromkeys(path.stem for path in outputs):
        paths = [path for path in outputs if path.stem == name]
        write_figure(load_code(TOY_FIGURES[name])(curves), paths)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    return run_on_toy_table(work, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
