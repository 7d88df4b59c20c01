"""One look for every figure, and files that are the same bytes whenever they are drawn."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from diffusability.artifacts.atomic import write_bytes

# Okabe and Ito's palette: distinct for colour-blind readers and in print; markers repeat the code
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NO_DATE = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "ModDate": None},
    "png": {"Software": None},
}
PANEL = 2.9  # inches, width and height of one panel


def use_style() -> None:
    """Set fonts, lines and the salt that makes SVG identifiers repeatable."""
    mpl.use("agg")
    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "diffusability",
            "svg.fonttype": "path",
            "pdf.fonttype": 42,
            "figure.dpi": 150,
            "savefig.dpi": 150,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def cluster_styles(clusters: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each cluster, in the order in which they first appear."""
    ordered = list(dict.fromkeys(clusters))
    return {
        name: (PALETTE[k % len(PALETTE)], MARKERS[(k + k // len(PALETTE)) % len(MARKERS)])
        for k, name in enumerate(ordered)
    }


def write_figure(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure to every path, in the format of its ending, without dates."""
    for path in paths:
        kind = path.suffix.removeprefix(".")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=NO_DATE[kind], bbox_inches="tight")
        write_bytes(path, buffer.getvalue())
