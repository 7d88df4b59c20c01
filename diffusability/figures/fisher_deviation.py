"""FIR deviation from the data: against eps, d and 1/R (Fig. 3a-c), and against v (Fig. 7-9)."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.figures.style import MARKERS, PALETTE, PANEL, use_style

READINGS = ("relative", "scaled", "per_dimension", "intrinsic")
EXPERIMENTS = (("scale", "eps"), ("dimension", "latent dimension d"), ("cylinder", "1 / R"))
CURVES = 4  # noise levels, or parameters, drawn in one panel
NOTHING = 1e-9  # deviations below this are rounding and not drawn on a logarithmic axis


def draw_deviation_by_parameter(table: pd.DataFrame) -> Figure:
    """Return a panel for each reading of the deviation (rows) and experiment (columns).

    One colour a noise level; lines are exact, markers learned with their standard errors.

    Args:
        table: of `fisher.toy_table`.
    """
    learned = table.loc[table["network"] != "exact", "v"].unique()
    chosen = _spread([v for v in sorted(learned) if v < 1])
    return _draw(table, "parameter", "v", chosen, "v = {:.2g}", logarithmic=False)


def draw_deviation_by_noise(table: pd.DataFrame) -> Figure:
    """Return the same against noise variance, one colour a parameter.

    Args:
        table: of `fisher.toy_table`.
    """
    return _draw(table, "v", "parameter", None, "{:g}", logarithmic=True)


def _draw(
    table: pd.DataFrame,
    x: str,
    colour: str,
    chosen: Sequence[float] | None,
    label: str,
    logarithmic: bool,
) -> Figure:
    use_style()
    figure = Figure(figsize=(PANEL * len(EXPERIMENTS), 0.8 * PANEL * len(READINGS)))
    axes = figure.subplots(len(READINGS), len(EXPERIMENTS), squeeze=False)
    for column, (experiment, title) in enumerate(EXPERIMENTS):
        rows = table[table["experiment"] == experiment]
        values = chosen
        if values is None:
            learned = rows.loc[rows["network"] != "exact", colour].unique()
            values = _spread(sorted(learned))
        for row, reading in enumerate(READINGS):
            axis = axes[row][column]
            for k, value in enumerate(values):
                part = rows[rows[colour] == value].sort_values(x)
                _draw_curve(axis, part, x, reading, PALETTE[k], label.format(value))
            if logarithmic:
                axis.set_xscale("log")
                axis.set_yscale("log")
            axis.set_ylabel(reading.replace("_", " ") if column == 0 else "")
        axes[0][column].set_title("cylinder" if experiment == "cylinder" else experiment)
        axes[-1][column].set_xlabel("noise variance v" if x == "v" else title)
        axes[0][column].legend(fontsize=6, frameon=False)
    figure.tight_layout()
    return figure


def _draw_curve(
    axis: Axes, rows: pd.DataFrame, x: str, reading: str, colour: str, label: str
) -> None:
    """Draw one exact line and the learned points of every network beside it."""
    rows = rows[rows[reading] > NOTHING] if axis.get_yscale() == "log" else rows
    exact = rows["network"] == "exact"
    axis.plot(rows.loc[exact, x], rows.loc[exact, reading], color=colour, label=label)
    for k, network in enumerate(dict.fromkeys(rows.loc[~exact, "network"])):
        points = rows[rows["network"] == network]
        axis.errorbar(
            points[x],
            points[reading],
            yerr=points[f"{reading}_stderr"],
            fmt=MARKERS[k],
            color=colour,
            markersize=3,
            linewidth=0.8,
        )


def _spread(values: Sequence[float]) -> list[float]:
    """Return at most four of the values, evenly spread over their order."""
    if len(values) <= CURVES:
        return list(values)
    last = len(values) - 1
    return [values[round(k * last / (CURVES - 1))] for k in range(CURVES)]
