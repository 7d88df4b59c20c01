"""How strongly every latent metric goes with generation quality, and how sure that is."""

import pandas as pd
from matplotlib.figure import Figure

from diffusability.figures.style import PALETTE, use_style

ROW = 0.16  # inches a metric
LEFT_MARGIN = 2.6  # inches for the names


def draw_correlations(correlations: pd.DataFrame, target: str) -> Figure:
    """Return one panel a backbone and guidance scale: Pearson's r with its interval by metric.

    Args:
        correlations: the table of correlations.
        target: metric that the others are correlated with.
    """
    use_style()
    chosen = correlations[
        (correlations["target"] == target)
        & (correlations["statistic"] == "pearson")
        & (correlations["family"] == "all")
        & correlations["value"].notna()
    ]
    cells = list(chosen.groupby(["backbone", "cfg"], sort=True))
    names = list(dict.fromkeys(chosen["metric"]))
    figure = Figure(figsize=(LEFT_MARGIN + 2.6 * max(1, len(cells)), 1.0 + ROW * len(names)))
    axes = figure.subplots(1, max(1, len(cells)), squeeze=False, sharey=True)[0]
    if not cells:
        axes[0].text(0.5, 0.5, "no correlation can be computed", ha="center")
    for axis, ((backbone, cfg), cell) in zip(axes, cells, strict=False):
        rows = cell.set_index("metric").reindex(names)
        heights = range(len(names))
        low, high = rows["low"].fillna(rows["value"]), rows["high"].fillna(rows["value"])
        axis.hlines(heights, low, high, color=PALETTE[5], linewidth=2)
        axis.plot(rows["value"], heights, "o", color=PALETTE[0], markersize=3.5)
        axis.axvline(0, color="0.7", linewidth=0.8)
        axis.set_xlim(-1.05, 1.05)
        axis.set_xlabel(f"r with {target.removeprefix('generation.')}")
        axis.set_title(f"{backbone}, guidance {cfg:g} (n = {int(rows['n'].max())})", fontsize=8)
    axes[0].set_yticks(range(len(names)), names, fontsize=6)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout()
    return figure
