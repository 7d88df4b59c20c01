"""What a person waits for, in seconds and as ratios to a calibration, to compare machines.

Usage: python -m benchmarks.waiting [WHAT ...]; without arguments everything, an hour on two cores.

A ratio divides processor time by that of two things that every machine can do: one product of
matrices (2,048 x 2,048, float32, one thread), and one import of torch in a new Python. Both are
timed before and after what is measured, so that other work on the machine slows both sides.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.processor_time import processor_time
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace

PRODUCTS = 8  # by one process, whose import of torch is subtracted
GEMM = f"""
import torch
torch.set_num_threads(1)
a = torch.ones(2048, 2048)
for _ in range({PRODUCTS}):
    a @ a
"""
SNAKEMAKE = ("snakemake", "-c2", "--scheduler", "greedy")
SMOKE = (*SNAKEMAKE, "--configfile", "studies/smoke.yaml")
PYTEST = ("pytest", "--numprocesses", "2", "--dist", "worksteal")
# commands by what they are called; those of one folder run one after the other in a fresh copy of
# the workflow, those without one in the repository
COMMANDS = {
    "installation": ("install", ("make", "install")),
    "smoke": ("smoke", SMOKE),
    "smoke-again": ("smoke", SMOKE),
    "study": ("study", SNAKEMAKE),
    "study-again": ("study", SNAKEMAKE),
    "fisher_toy": ("study", (*SNAKEMAKE, "fisher_toy")),
    "unit-tests": ("", (*PYTEST, "tests/unit")),
    "workflow-tests": ("", (*PYTEST, "tests/workflow")),
}


@dataclass(frozen=True)
class Calibration:
    """Processor seconds of one product of matrices, and of one import of torch."""

    product: float
    importing: float


def calibrate(log: Path) -> Calibration:
    """Time product and import, each as the least of three."""

    def least(code: str) -> float:
        return min(processor_time(("python", "-c", code), log)[1] for _ in range(3))

    importing = least("import torch")
    return Calibration(max(1e-9, least(GEMM) - importing) / PRODUCTS, importing)


def main() -> None:
    """Print one row per command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help=f"of: {', '.join(COMMANDS)}")
    chosen = parser.parse_args().what or list(COMMANDS)
    if unknown := set(chosen) - set(COMMANDS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(COMMANDS)}")
    print(f"{'what':<16}{'wall s':>9}{'CPU s':>9}{'/ product':>11}{'/ import':>10}")
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        before = calibrate(log)
        print(f"{'one product':<16}{'':>9}{before.product:>9.3f}{1:>11.1f}")
        print(f"{'import torch':<16}{'':>9}{before.importing:>9.3f}{'':>11}{1:>10.1f}")
        for name in chosen:
            folder, command = COMMANDS[name]
            place = Path(scratch, folder) if folder else REPOSITORY
            if not place.exists():
                Workspace.create(place)
            wall, used = processor_time(command, Path(scratch, f"{name}.log"), place)
            after = calibrate(log)
            products = used / mean((before.product, after.product))
            imports = used / mean((before.importing, after.importing))
            row = f"{name:<16}{wall:>9.1f}{used:>9.1f}{products:>11.0f}{imports:>10.1f}"
            print(row, flush=True)
            before = after


if __name__ == "__main__":
    main()
