"""FI and FIR of activation functions against noise variance, exact beside learned (Fig. 2)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.figures.style import INK, MARKERS, PALETTE, PANEL, use_style

QUANTITIES = (("fi", "FI"), ("fir", "FIR"), ("mmse_rate", "MMSE rate"))


def draw_activations(table: pd.DataFrame) -> Figure:
    """Return panels of FI, FIR and MMSE rate: functions above, leaky slopes below.

    Lines are exact, markers learned with their standard errors; black is the data itself.

    Args:
        table: of `fisher.toy_table`.
    """
    use_style()
    rows = table[table["experiment"] == "activation"]
    leaky = rows["parameter"].notna()
    figure = Figure(figsize=(PANEL * len(QUANTITIES) + 1.2, 2 * PANEL))
    axes = figure.subplots(2, len(QUANTITIES), squeeze=False)
    for line, part in zip(axes, (rows[~leaky], rows[leaky]), strict=True):
        for axis, (name, title) in zip(line, QUANTITIES, strict=True):
            _draw_panel(axis, part, name)
            axis.set_ylabel(title)
            axis.set_xlabel("noise variance v")
        line[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def _draw_panel(axis: Axes, rows: pd.DataFrame, name: str) -> None:
    """Draw one quantity of every space, and that of the data."""
    exact = rows["network"] == "exact"
    networks = list(dict.fromkeys(rows.loc[~exact, "network"]))
    spaces = list(dict.fromkeys(rows["space"]))
    own = [("data", f"pixel_{name}", rows[rows["space"] == spaces[0]], INK)]
    for k, space in enumerate(spaces):
        own.append((space, name, rows[rows["space"] == space], PALETTE[k]))
    for label, column, part, colour in own:
        line = part[part["network"] == "exact"].sort_values("v")
        axis.plot(line["v"], line[column], color=colour, linewidth=1.2, label=label)
        for network in networks:
            points = part[part["network"] == network]
            axis.errorbar(
                points["v"],
                points[column],
                yerr=points[f"{column}_stderr"],
                fmt=MARKERS[networks.index(network)],
                color=colour,
                markersize=3,
                linewidth=0.8,
                alpha=0.8,
            )
    for network in networks:
        marker = MARKERS[networks.index(network)]
        axis.plot([], [], marker, color="0.4", markersize=3, label=f"learned: {network}")
    axis.set_xscale("log")
    axis.set_yscale("log")
