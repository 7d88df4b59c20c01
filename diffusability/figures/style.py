"""The common style of all figures, and reproducible files."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from diffusability.artifacts.atomic import write_bytes

# colour and marker of the nine clusters of Table 1, the same in every study: Okabe and Ito's
# colours with two of Tol's; the markers distinguish them in grey print
CLUSTERS = {
    "baseline": ("#000000", "X"),
    "repa": ("#0072B2", "o"),
    "mcos+mdms": ("#D55E00", "s"),
    "mcos": ("#E69F00", "^"),
    "mdms": ("#CC79A7", "v"),
    "eq": ("#009E73", "D"),
    "lcr": ("#56B4E9", "P"),
    "lmr": ("#882255", "*"),
    "mae": ("#8C8C00", "<"),
}
OTHERS = (("#666666", "p"), ("#332288", ">"), ("#117733", "h"))
# for series that are not clusters: seaborn's colour-blind palette, and markers
PALETTE = tuple(sns.color_palette("colorblind", 8).as_hex())
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PANEL = 2.9  # inches, width and height of a panel of such series
PAGE = 8.9  # inches, the widest figure that a page shows at 1280 pixels without scrolling
HALF = 4.3  # inches, the same for a figure that takes half of the page
PHONE = 2.4  # inches, the same at 390 pixels
INK = "0.15"  # grey of text and axes
MEANINGLESS = "0.62"  # of a correlation that says nothing
QUIET = "0.45"  # grey of secondary elements: bars, lines, sentences
TEXT = 7.0  # points; only the numbers of points are smaller by more than a point
EMPTY = "empty: "  # starts the label of a panel without data
NO_DATE = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "ModDate": None},
    "png": {"Software": None},
}


def use_style() -> None:
    """Set fonts, lines and the salt that makes SVG identifiers reproducible.

    Starts from matplotlib's defaults, so user style files have no effect.
    """
    mpl.rcdefaults()
    mpl.use("agg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "diffusability",
            "svg.fonttype": "path",
            "pdf.fonttype": 42,
            "figure.dpi": 150,
            "savefig.dpi": 150,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.7,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
            "axes.labelsize": TEXT,
            "axes.titlesize": TEXT,
            "xtick.labelsize": TEXT - 1,
            "ytick.labelsize": TEXT - 1,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            "xtick.major.pad": 2,
            "ytick.major.pad": 2,
            "axes.labelpad": 2,
            "legend.fontsize": TEXT,
        }
    )


def cluster_styles(clusters: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each cluster, in the order of Table 1, then of appearance."""
    there = list(dict.fromkeys(clusters))
    foreign = [name for name in there if name not in CLUSTERS]
    known = {name: style for name, style in CLUSTERS.items() if name in there}
    return known | {name: OTHERS[k % len(OTHERS)] for k, name in enumerate(foreign)}


def empty_reason(figure: Figure) -> str:
    """Return why a figure shows no data, or empty if a panel has some.

    An empty panel has its reason as label (``panels.annotate_empty``).
    """
    reasons = [str(axis.get_label()) for axis in figure.axes]
    return reasons[0] if all(reason.startswith(EMPTY) for reason in reasons) else ""


def write_figure(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure to every path, in the format of its suffix, without dates.

    The description of an SVG says why a figure is empty, if it is; the report leaves it out.
    """
    reason = empty_reason(figure)
    for path in paths:
        kind = path.suffix.removeprefix(".")
        metadata: dict[str, str | None] = dict(NO_DATE[kind])
        if kind == "svg" and reason:
            metadata["Description"] = reason
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata, bbox_inches="tight")
        write_bytes(path, buffer.getvalue())
