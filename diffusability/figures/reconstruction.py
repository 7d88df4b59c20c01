"""Do the tokenizers of a family reconstruct about equally well? (Fig. 3)"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.tables import cells
from diffusability.figures.catalogue import name_metric
from diffusability.figures.numbering import number_points
from diffusability.figures.panels import (
    add_legend,
    draw_points,
    head,
    label_metric,
    number_names,
    panel_grid,
    say,
    wrapped,
)
from diffusability.figures.results import Results

SHOWN = (
    "reconstruction.psnr",
    "reconstruction.ssim",
    "reconstruction.lpips*",
    "reconstruction.f[di]*",  # FID where the extractor is Inception
)
HALF_WIDTH = 0.32  # of a family's column, in columns


def draw_reconstruction(results: Results) -> Figure:
    """Return a panel a reconstruction metric, a column a family, in the order of the study."""
    figure, axes = panel_grid(1, len(SHOWN), panel=(2.05, 2.2), gap=(0.45, 0.95))
    for axis, pattern in zip(axes[0], SHOWN, strict=True):
        _draw_metric(axis, results, pattern)
    head(figure, "Reconstruction: how far the tokenizers of a family differ")
    add_legend(figure, results)
    return figure


def _draw_metric(axis: Axes, results: Results, pattern: str) -> None:
    metric = results.measured(pattern)
    if metric is None:
        say(axis, f"{name_metric(pattern)} ({pattern}) was not measured in this study")
        return
    axis.set_title(wrapped(axis, label_metric(results, name_metric(metric), metric)))
    paired = cells(results.measurements, metric, metric, "", None)
    families = results.families
    labels, parts = [], []
    for place, family in enumerate(families):
        rows = paired.of_family(family).rows
        spread = np.linspace(-HALF_WIDTH, HALF_WIDTH, len(rows)) if len(rows) > 1 else np.zeros(1)
        parts.append(rows.assign(x=place + spread[: len(rows)], x_stderr=np.nan))
        labels.append(f"{family}\n{_spread(results, family, metric)}")
        if len(rows) > 1:
            mean, sd = rows["y"].mean(), rows["y"].std(ddof=1)
            ends = (place - HALF_WIDTH - 0.08, place + HALF_WIDTH + 0.08)
            axis.hlines(mean, *ends, color="0.6", linewidth=0.8, zorder=1)
            axis.fill_between(ends, mean - sd, mean + sd, color="0.93", linewidth=0, zorder=0)
    points = pd.concat(parts)
    draw_points(axis, points, results)
    axis.set_xticks(range(len(families)), labels)
    axis.set_xlim(-0.5, len(families) - 0.5)
    number_points(axis, points["x"], points["y"], number_names(results, points["tokenizer"]))


def _spread(results: Results, family: str, metric: str) -> str:
    """Return the standard deviation over tokenizers with its interval, or why there is none."""
    row = results.row("comparability", family=family, metric=metric)
    if row is None or pd.isna(row["value"]):
        return "no spread"
    if pd.isna(row["low"]):
        return f"sd {row['value']:.2g}, n = {row['n']:.0f}\nno interval"
    return f"sd {row['value']:.2g}\n[{row['low']:.2g}, {row['high']:.2g}]"
