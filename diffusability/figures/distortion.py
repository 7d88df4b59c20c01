"""What of each encoder's FIR deviation is dimension, tangential distortion and curvature."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusability.figures.panels import (
    legend_below,
    lowest,
    sentence_figure,
    set_title,
    wrapped_grid,
)
from diffusability.figures.results import Results
from diffusability.figures.style import INK, PALETTE

# part of the deviation: its words; in the order of theorem 3.5
PARTS = {
    "dimension": "dimension, (d \N{MINUS SIGN} D) / D",
    "tangential": "tangential distortion",
    "curvature": "curvature",
}
ESTIMATORS = {"": "mixture of classes", "_empirical": "smoothed empirical measure"}
DOTS = (1, 1.5)  # on and off, of the second
COLUMNS = 4  # panels per row
LEAST = 0.02  # height of a panel, of the deviation: what is 0 but for rounding is drawn as 0
WHOLE = "sum: the deviation"
COLOURS = dict(zip((*PARTS.values(), WHOLE), (*PALETTE[: len(PARTS)], INK), strict=True))


def draw_distortion(results: Results) -> Figure:
    """Return a panel per tokenizer: v^2 (F_d - F_D) / D over v, and its three parts.

    Solid lines are of the mixture of classes, dotted ones of the empirical measure; means over
    seeds.
    """
    rows = parts_by_noise(results.measurements)
    if rows.empty:
        return sentence_figure("distortion was not measured in this study")
    order = dict.fromkeys(results.measurements["tokenizer"])
    names = [name for name in order if name in set(rows["tokenizer"])]
    figure, axes = wrapped_grid(len(names), COLUMNS, panel=(1.5, 1.2), gap=(0.4, 0.6))
    for axis, name in zip(axes.flat, names, strict=False):
        axis.set_title(name)
        _draw(axis, rows[rows["tokenizer"] == name])
    for axis in lowest(axes):
        axis.set_xlabel("noise variance v")
    axes[0][0].set_ylabel("v² (FIR \N{MINUS SIGN} FIR of pixels) / D")
    set_title(figure, "Parts of the FIR deviation from pixels")
    handles = {words: Line2D([], [], color=colour) for words, colour in COLOURS.items()}
    handles |= {
        words: Line2D([], [], color="0.5", dashes=dashes)
        for words, dashes in zip(ESTIMATORS.values(), ((1, 0), DOTS), strict=True)
    }
    legend_below(figure, handles, len(COLOURS))
    return figure


def parts_by_noise(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return tokenizer, ending, v and the means over seeds of every part; may be empty."""
    found = []
    for ending in ESTIMATORS:
        for part in PARTS:
            pattern = rf"distortion\.curve_fir_{part}{ending}_v([0-9.e+-]+)"
            level = measurements["metric"].str.extract(f"^{pattern}$")[0]
            own = measurements[level.notna()].assign(v=level.dropna().astype(float))
            means = own.groupby(["tokenizer", "v"], sort=False)["value"].mean().reset_index()
            found.append(means.assign(ending=ending, part=part))
    columns = ["tokenizer", "ending", "v"]
    table = pd.concat(found)
    if table.empty:
        return pd.DataFrame(columns=[*columns, *PARTS])
    return table.pivot(index=columns, columns="part", values="value").reset_index()


def _draw(axis: Axes, rows: pd.DataFrame) -> None:
    named = rows.rename(columns=PARTS)
    named[WHOLE] = rows[list(PARTS)].sum(axis=1, min_count=len(PARTS))
    sns.lineplot(
        named.melt(["ending", "v"], list(COLOURS), "part", "value"),
        x="v",
        y="value",
        hue="part",
        palette=COLOURS,
        size="part",
        sizes={words: 1.4 if words == WHOLE else 1.0 for words in COLOURS},
        style="ending",
        dashes=dict(zip(ESTIMATORS, ("", DOTS), strict=True)),
        estimator=None,
        legend=False,
        ax=axis,
    )
    axis.axhline(0.0, color="0.8", linewidth=0.6, zorder=0)
    axis.set(xscale="log", xlabel="", ylabel="")
    low, high = axis.get_ylim()
    if high - low < LEAST:
        axis.set_ylim(-LEAST / 2, LEAST / 2)
