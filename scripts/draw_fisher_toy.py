"""Draw the toy study of Fisher information from its table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffusability.artifacts.result_card import check_result, hashes, write_result_card
from diffusability.errors import DiffusabilityError
from diffusability.figures.fisher_toy import (
    draw_activations,
    draw_deviation_by_noise,
    draw_deviation_by_parameter,
    draw_deviation_parts,
)
from diffusability.figures.style import write_figure
from diffusability.study.fisher_toy import FISHER_TOY

FIGURES = {
    "activations": draw_activations,
    "deviation_by_parameter": draw_deviation_by_parameter,
    "deviation_by_noise": draw_deviation_by_noise,
    "deviation_parts": draw_deviation_parts,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="table of the toy study")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="<figure>.<format>")
    arguments = parser.parse_args(argv)
    try:
        check_result(arguments.table)
        inputs, table = hashes([arguments.table]), pd.read_csv(arguments.table)
        for name in dict.fromkeys(path.stem for path in arguments.output):
            paths = [path for path in arguments.output if path.stem == name]
            write_figure(FIGURES[name](table), paths)
        write_result_card(arguments.output, inputs, FISHER_TOY, "")
    except DiffusabilityError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
