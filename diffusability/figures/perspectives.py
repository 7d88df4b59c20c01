"""Every headline metric against generation quality, one panel each (Fig. 4)."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.headline import HEADLINE_METRICS
from diffusability.figures.style import PANEL, cluster_styles, use_style

DIRECTION = {True: "higher is better", False: "lower is better"}


def draw_perspectives(
    measurements: pd.DataFrame, correlations: pd.DataFrame, target: str
) -> Figure:
    """Return the figure: a row of panels for every backbone and guidance scale.

    Args:
        measurements: the tidy table.
        correlations: the table of correlations.
        target: metric on the vertical axis, a distance, smaller is better.
    """
    use_style()
    generated = measurements[measurements["metric"] == target]
    keys = generated[["backbone", "cfg"]].drop_duplicates().sort_values(["backbone", "cfg"])
    cells = list(zip(keys["backbone"], keys["cfg"], strict=True))
    styles = cluster_styles(measurements["cluster"])
    columns = len(HEADLINE_METRICS)
    figure = Figure(figsize=(PANEL * columns, PANEL * len(cells) + 0.4))
    axes = figure.subplots(len(cells), columns, squeeze=False, sharey="row")
    for row, (backbone, cfg) in zip(axes, cells, strict=True):
        cell = generated[(generated["backbone"] == backbone) & (generated["cfg"] == cfg)]
        for axis, (short, metric) in zip(row, HEADLINE_METRICS.items(), strict=True):
            points = _points(measurements[measurements["metric"] == metric], cell)
            _draw_panel(axis, points, styles)
            axis.set_title(_statement(correlations, metric, target, backbone, cfg), fontsize=8)
            axis.set_xlabel(_axis_label(short, measurements, metric))
        row[0].set_ylabel(f"{target.removeprefix('generation.')}\n{backbone}, guidance {cfg:g}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.08 / len(cells), 1, 1))
    return figure


def _points(metric: pd.DataFrame, cell: pd.DataFrame) -> pd.DataFrame:
    """Return one row a tokenizer: means over seeds of the metric (x) and of the target (y)."""
    x, y = (_mean_over_seeds(frame) for frame in (metric, cell))
    return x.join(y, lsuffix="_x", rsuffix="_y", how="inner")


def _mean_over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    grouped = frame.groupby(["tokenizer", "cluster"], sort=False)
    mean = grouped["value"].mean()
    several = grouped["value"].sem()
    return pd.DataFrame({"value": mean, "error": several.fillna(grouped["stderr"].mean())})


def _draw_panel(axis: Axes, points: pd.DataFrame, styles: dict[str, tuple[str, str]]) -> None:
    if points.empty:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        return
    if len(points) >= 3 and points["value_x"].nunique() > 1:
        sns.regplot(
            x=points["value_x"].to_numpy(),
            y=points["value_y"].to_numpy(),
            ax=axis,
            scatter=False,
            ci=None,
            truncate=True,
            line_kws={"color": "0.7", "linewidth": 1},
        )
    for point in points.reset_index().to_dict("records"):
        colour, marker = styles[point["cluster"]]
        axis.errorbar(
            point["value_x"],
            point["value_y"],
            xerr=_finite(point["error_x"]),
            yerr=_finite(point["error_y"]),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=0.8,
            linestyle="none",
            label=point["tokenizer"],
        )


def _finite(error: float) -> float:
    return float(error) if np.isfinite(error) else 0.0


def _statement(
    correlations: pd.DataFrame, metric: str, target: str, backbone: str, cfg: float
) -> str:
    """Return "r = .. [low, high], n = .." of a panel, or why there is none."""
    chosen = correlations[
        (correlations["metric"] == metric)
        & (correlations["target"] == target)
        & (correlations["backbone"] == backbone)
        & (correlations["cfg"] == cfg)
        & (correlations["family"] == "all")
        & (correlations["statistic"] == "pearson")
    ]
    if chosen.empty or pd.isna(chosen["value"].iloc[0]):
        return "no correlation"
    row = chosen.iloc[0]
    if pd.isna(row["low"]):
        return f"r = {row['value']:.2f}, n = {row['n']}, no interval"
    return f"r = {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}], n = {row['n']}"


def _axis_label(short: str, measurements: pd.DataFrame, metric: str) -> str:
    direction = measurements.loc[measurements["metric"] == metric, "higher_is_better"]
    known = direction.dropna()
    return f"{short} ({DIRECTION[bool(known.iloc[0])]})" if len(known) else short
