"""What the comparisons with official code share: finding it, taking turns, printing a ratio.

No official code is part of this project. A comparison takes the path of a repository as its
authors publish it (`git clone ...`) and prints its name and commit.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

import torch

from diffusability.encoders.packages import ensure_torchvision


@dataclass(frozen=True)
class Comparison:
    """The same work done by this project and by official code.

    Attributes:
        what: with sizes.
        ours, theirs: do the work once.
        agreement: what was found equal on both sides, and how closely.
    """

    what: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    agreement: str


def repository(path: Path) -> str:
    """Put a checkout first on the import path, and return its name and commit."""
    sys.path.insert(0, str(path))
    found = subprocess.run(
        ["git", "-C", str(path), "log", "-1", "--format=%h of %cs"], capture_output=True, text=True
    )
    return f"{path.name} {found.stdout.strip() or '(commit unknown)'}"


def stand_in(*modules: str) -> None:
    """Let official code import packages that the measured part of it never calls."""
    for module in modules:
        sys.modules.setdefault(module, MagicMock())


def compare(comparison: Comparison, source: str, repeats: int) -> None:
    """Let both sides take turns and print their processor seconds and the ratio."""
    sides = (comparison.ours, comparison.theirs)
    for side in sides:
        side()  # the first call also warms up
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, taken in zip(sides, times, strict=True):
            start = time.process_time()
            side()
            taken.append(time.process_time() - start)
    ours, theirs = map(statistics.median, times)
    fastest = min(times[1]) / min(times[0])
    print(f"{comparison.what}; against {source}")
    print(f"  equal: {comparison.agreement}")
    print(
        f"  CPU s, median of {repeats}: ours {ours:.3f}, official {theirs:.3f}; "
        f"official / ours {theirs / ours:.2f} (of the fastest {fastest:.2f})",
        flush=True,
    )


def run(
    description: str, cases: dict[str, Callable[[argparse.Namespace], Comparison]], batch: int
) -> None:
    """Parse the arguments of a comparison, run it and print it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("case", choices=cases)
    parser.add_argument("repository", type=Path, help="checkout of the official repository")
    parser.add_argument("--taming", type=Path, help="checkout of taming-transformers, for vavae")
    parser.add_argument("--batch", type=int, default=batch, help="images at once")
    parser.add_argument("--depth", type=int, default=12, help="blocks of a transformer")
    parser.add_argument("--side", type=int, default=256, help="pixels, for vavae")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ensure_torchvision()  # official code imports it, also beside a torch without CUDA
    source = repository(options.repository)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "scipy", "numpy"))
    print(f"one thread of the CPU, {packages}")
    compare(cases[options.case](options), source, options.repeats)
