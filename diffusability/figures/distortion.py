"""What of each encoder's FIR deviation is dimension, tangential distortion and curvature."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.figures.panels import legend_below, sentence_figure, set_title, wrapped_grid
from diffusability.figures.results import Results
from diffusability.figures.style import INK, PALETTE

# part of the deviation: its words; in the order of theorem 3.5
PARTS = {
    "dimension": "dimension, (d \N{MINUS SIGN} D) / D",
    "tangential": "tangential distortion",
    "curvature": "curvature",
}
ESTIMATORS = {"": "mixture of classes", "_empirical": "smoothed empirical measure"}
COLUMNS = 4  # panels per row


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
    for axis in axes[-1]:
        axis.set_xlabel("noise variance v")
    axes[0][0].set_ylabel("v² (FIR \N{MINUS SIGN} FIR of pixels) / D")
    set_title(figure, "Parts of the FIR deviation from pixels")
    drawn = {str(line.get_label()): line for line in axes.flat[0].lines[: len(PARTS) + 1]}
    legend_below(figure, drawn, len(drawn))
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
    for ending, style in zip(ESTIMATORS, ("-", ":"), strict=True):
        own = rows[rows["ending"] == ending].sort_values("v")
        for (part, words), colour in zip(PARTS.items(), PALETTE, strict=False):
            axis.plot(own["v"], own[part], style, color=colour, linewidth=1.0, label=words)
        whole = own[list(PARTS)].sum(axis=1, min_count=len(PARTS))
        axis.plot(own["v"], whole, style, color=INK, linewidth=1.4, label="sum: the deviation")
    axis.axhline(0.0, color="0.8", linewidth=0.6, zorder=0)
    axis.set_xscale("log")
