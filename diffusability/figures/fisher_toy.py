"""FI and FIR of activation functions against noise variance, exact and learned (Fig. 2)."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.figures.style import INK, MARKERS, PALETTE, PANEL, use_style
from diffusability.fisher.toy_table import READINGS
from diffusability.study.fisher_toy import INTRINSIC_DIM

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
    """Draw one quantity for every space and for the data."""
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


EXPERIMENTS = (("scale", "eps"), ("dimension", "latent dimension d"), ("cylinder", "1 / R"))
CURVES = 4  # noise levels, or parameters, drawn in one panel
NOTHING = (
    1e-9  # smaller deviations are rounding errors: drawn as zero, or omitted on a logarithmic axis
)


def draw_deviation_by_parameter(table: pd.DataFrame) -> Figure:
    """Return a panel for each form of the deviation (rows) and experiment (columns).

    One colour per noise level; lines are exact, markers learned with their standard errors.

    Args:
        table: of `fisher.toy_table`.
    """
    chosen = _spread([v for v in sorted(table["v"].unique()) if v < 1])
    return _draw(table, "parameter", "v", chosen, "v = {:.2g}", logarithmic=False)


def draw_deviation_by_noise(table: pd.DataFrame) -> Figure:
    """Return the same against noise variance, one colour per parameter.

    Args:
        table: of `fisher.toy_table`.
    """
    return _draw(table, "v", "parameter", None, "{:g}", logarithmic=True)


SHOWN = 0.1  # noise variance that the parts of the deviation are shown near


def draw_deviation_parts(table: pd.DataFrame) -> Figure:
    """Return the exact v^2 (F_d - F_D) / D split into the penalties of Theorem 3.5, by parameter.

    Bars are the dimension (d - D) / D, and the rest: tangential for the linear map, curvature for
    the bent plane. Dots are the theory's values: Lemma B.1, and the closed form of the linear map.

    Args:
        table: of `fisher.toy_table`.
    """
    use_style()
    figure = Figure(figsize=(PANEL * len(EXPERIMENTS), PANEL))
    rests = {"scale": "tangential", "dimension": "tangential", "cylinder": "curvature"}
    colours = dict(zip(("dimension", "tangential", "curvature"), PALETTE, strict=False))
    for axis, (experiment, title) in zip(
        figure.subplots(1, len(EXPERIMENTS)), EXPERIMENTS, strict=True
    ):
        parts = deviation_parts(table, experiment)
        places = range(len(parts))
        rest = rests[experiment]
        below = parts["dimension"]
        for part, name, bottom in ((below, "dimension", None), (parts["rest"], rest, below)):
            if part.abs().max() > NOTHING:
                axis.bar(places, part, bottom=bottom, color=colours[name], label=name)
        known = parts["theory"].notna().to_numpy()
        if known.any():
            at = [k for k in places if known[k]]
            axis.plot(at, parts["theory"][known], "o", color=INK, markersize=3, label="theory")
        axis.set_xticks(list(places), [f"{p:g}" for p in parts["parameter"]])
        axis.set_title(experiment)
        axis.set_xlabel(title)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=6, frameon=False)
    level = shown_level(table[table["network"] == "exact"])
    figure.axes[0].set_ylabel(f"v² (FIR - FIR of data) / D at v = {level:.2g}")
    figure.tight_layout()
    return figure


def shown_level(rows: pd.DataFrame) -> float:
    """Return the noise variance of a table that is nearest to the one shown."""
    return min(rows["v"].unique(), key=lambda level: abs(level - SHOWN), default=SHOWN)


def deviation_parts(table: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Return parameter, dimension, rest and theory of the exact deviations at the v near 0.1.

    Theory is the value of the whole deviation, NaN for the bent plane, which has no closed form.
    """
    rows = table[(table["experiment"] == experiment) & (table["network"] == "exact")]
    v = shown_level(rows)
    rows = rows[rows["v"] == v].sort_values("parameter").reset_index(drop=True)
    whole = v**2 * (rows["fir"] - rows["pixel_fir"]) / rows["pixel_dim"]
    dimension = (rows["dim"] - rows["pixel_dim"]) / rows["pixel_dim"]
    theory = dimension * float("nan")
    if experiment == "dimension":
        theory = dimension
    elif experiment == "scale":
        shares = [(v / (1 + e + v)) ** 2 for e in (rows["parameter"], 0.0)]
        theory = INTRINSIC_DIM * (shares[0] - shares[1]) / rows["pixel_dim"]
    columns = {"parameter": rows["parameter"], "dimension": dimension}
    return pd.DataFrame(columns | {"rest": whole - dimension, "theory": theory})


def _draw(
    table: pd.DataFrame,
    x: str,
    colour: str,
    chosen: Sequence[float] | None,
    label: str,
    logarithmic: bool,
) -> Figure:
    use_style()
    networks = [n for n in dict.fromkeys(table["network"]) if n != "exact"]
    markers = dict(zip(networks, MARKERS, strict=False))
    figure = Figure(figsize=(PANEL * len(EXPERIMENTS), 0.8 * PANEL * len(READINGS)))
    axes = figure.subplots(len(READINGS), len(EXPERIMENTS), squeeze=False)
    for column, (experiment, title) in enumerate(EXPERIMENTS):
        rows = table[table["experiment"] == experiment]
        values = chosen
        if values is None:
            learned = rows.loc[rows["network"] != "exact", colour].unique()
            values = _spread(sorted(learned if len(learned) else rows[colour].unique()))
        for row, reading in enumerate(READINGS):
            axis = axes[row][column]
            for k, value in enumerate(values):
                part = rows[rows[colour] == value].sort_values(x)
                if logarithmic:
                    part = part[part[reading] > NOTHING]
                _draw_curve(axis, part, x, reading, PALETTE[k], label.format(value), markers)
            if logarithmic:
                axis.set_xscale("log")
                _use_log_ordinates(axis, bool((rows[reading] > NOTHING).any()))
            axis.set_ylabel(reading.replace("_", " ") if column == 0 else "")
        axes[0][column].set_title(experiment)
        axes[-1][column].set_xlabel("noise variance v" if x == "v" else title)
        axes[0][column].legend(fontsize=6, frameon=False)
    for network, marker in markers.items():
        axes[0][-1].plot([], [], marker, color="0.4", markersize=3, label=f"learned: {network}")
    axes[0][-1].legend(fontsize=6, frameon=False)
    figure.tight_layout()
    return figure


def _draw_curve(
    axis: Axes,
    rows: pd.DataFrame,
    x: str,
    reading: str,
    colour: str,
    label: str,
    markers: Mapping[str, str],
) -> None:
    """Draw one exact line and the learned points of every network."""
    exact = rows["network"] == "exact"
    line = rows[exact]
    axis.plot(line[x], line[reading].mask(line[reading] < NOTHING, 0), color=colour, label=label)
    for network, marker in markers.items():
        points = rows[rows["network"] == network]
        if points.empty:
            continue
        axis.errorbar(
            points[x],
            points[reading],
            yerr=points[f"{reading}_stderr"],
            fmt=marker,
            color=colour,
            markersize=3,
            linewidth=0.8,
        )


def _use_log_ordinates(axis: Axes, something: bool) -> None:
    """Make the y axis logarithmic, or write that there is nothing to draw."""
    if something:
        axis.set_yscale("log")
        return
    axis.set_yticks([])
    axis.text(0.5, 0.5, "zero to rounding", ha="center", transform=axis.transAxes, fontsize=7)


def _spread(values: Sequence[float]) -> list[float]:
    """Return at most four of the values, evenly spread over their order."""
    if len(values) <= CURVES:
        return list(values)
    last = len(values) - 1
    return [values[round(k * last / (CURVES - 1))] for k in range(CURVES)]
