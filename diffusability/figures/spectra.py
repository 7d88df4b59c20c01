"""Power spectra of images and latents, in order and permuted (Fig. 13 of the second paper)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffusability.analysis.latent_spaces import of_role, spectrum_order, with_roles
from diffusability.figures.panels import (
    annotate_empty,
    legend_below,
    sentence_figure,
    set_title,
    wrapped_grid,
)
from diffusability.figures.results import Results
from diffusability.figures.style import PALETTE, QUIET
from diffusability.study.entries.roles import CONTROL, PERMUTED, PIXELS, TRAINED

COLUMNS = 4  # panels per row
FEWEST = 2  # fewest frequencies of a curve
LEAST = 0.3  # lower end of every panel's power axis; the upper end is at least its inverse
# original and permuted: flag, legend label, colour, line style
CURVES = ((0, "original", PALETTE[0], "-"), (1, "entries permuted", QUIET, "--"))


def draw_spectra(results: Results) -> Figure:
    """Return a panel per tokenizer of the paper's experiments, for its first seed.

    Images, levels and permuted pixels over radial frequency, vectors over their index; each also
    with all entries in one random order, to which FI and FIR are invariant. White noise is 1.
    """
    spectra = results.last.get("spectra")
    names = [] if spectra is None else of_role(with_roles(spectra), (*TRAINED, PIXELS, PERMUTED))
    if spectra is None or not names:
        return sentence_figure("power spectra were not measured in this study")
    shown = shown_spectra(spectra)
    figure, axes = wrapped_grid(len(names), COLUMNS, panel=(1.5, 1.2), gap=(0.4, 0.6))
    for axis, name in zip(axes.flat, names, strict=False):
        axis.set_title(name)
        own = shown[shown["tokenizer"] == name]
        if own.empty:
            annotate_empty(axis, "its grid has too few radial frequencies")
        else:
            _draw(axis, own)
    low, high = shown["power"].min(), shown["power"].max()
    for axis in filter(Axes.has_data, axes.flat):
        # the same axis for all panels, at least a decade, around the 1 of white noise
        axis.set_ylim(min(low / 1.3, LEAST), max(high * 1.3, 1 / LEAST))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda power, _: f"{power:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(labelleft=False)
    for line in axes:
        for axis in list(filter(Axes.has_data, line))[:1]:
            axis.set_ylabel("power (white noise 1)")
            axis.tick_params(labelleft=True)
    set_title(figure, "Power spectra, original and with permuted entries")
    drawn = [axis.get_legend_handles_labels() for axis in axes.flat]
    for handles, labels in [pair for pair in drawn if pair[0]][:1]:
        legend_below(figure, dict(zip(labels, handles, strict=True)), len(handles))
    return figure


def shown_spectra(spectra: pd.DataFrame) -> pd.DataFrame:
    """Return the spectra of the paper's experiments, in their own order, for the first seed.

    Args:
        spectra: from ``collect_spectra``.
    """
    table = with_roles(spectra)
    order = table["role"].map(spectrum_order)
    first = table.groupby("tokenizer")["tokenizer_seed"].transform("min")
    own = table[(table["order"] == order) & (table["tokenizer_seed"] == first)]
    own = own[own["role"] != CONTROL]
    lengths = own.groupby(["tokenizer", "permuted"])["frequency"].transform("size")
    return own[lengths >= FEWEST]


def _draw(axis: Axes, rows: pd.DataFrame) -> None:
    for permuted, label, colour, style in CURVES:
        curve = rows[rows["permuted"] == permuted].sort_values("frequency")
        axis.errorbar(
            curve["frequency"],
            curve["power"],
            yerr=curve["stderr"].fillna(0),
            color=colour,
            linestyle=style,
            linewidth=0.9,
            marker="o",
            markersize=2,
            elinewidth=0.6,
            label=label,
        )
    axis.set_yscale("log")
    line = rows["order"].iloc[0] == "line"
    axis.set_xlabel("cycles per entry" if line else "cycles per cell (radial)")
