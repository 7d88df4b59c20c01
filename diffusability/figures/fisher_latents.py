"""Fisher curves of latent spaces and pixels: Fig. 3d, 4, 6, 11, 12 of the second paper.

One row per backbone, and one for the fits to the latents. Totals as in the paper, then values per
dimension, because totals of spaces of different dimensions differ mainly by their dimensions.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusability.analysis.latent_spaces import (
    POWERS,
    fisher_totals,
    networks,
    of_role,
    per_dimension,
)
from diffusability.figures.fisher_curves import QUANTITIES
from diffusability.figures.panels import (
    annotate_empty,
    legend_below,
    panel_grid,
    sentence_figure,
    set_title,
)
from diffusability.figures.results import Results
from diffusability.figures.style import PALETTE, QUIET
from diffusability.study.entries.roles import GPE, LEVEL, PIXELS, VAE, VAE_MEANS

# column: its title; totals have a logarithmic axis
TOTALS = {"fi": "FI", "fir": "FIR"}
SHARES = {quantity: QUANTITIES[quantity] for quantity in POWERS}
DEVIATION = "v² |FIR\N{MINUS SIGN}FIR of pixels| / D"
MARK = 2.6  # points


def draw_fisher_encoders(results: Results) -> Figure:
    """Return the curves of pixels, GPE and VAE, and of the VAE's posterior means if there are."""
    return _draw(results, (GPE, VAE), (VAE_MEANS,), "Encoders of one architecture and pixels")


def draw_fisher_levels(results: Results) -> Figure:
    """Return the curves of pixels and of the levels of hierarchical VAEs, coarse levels first."""
    return _draw(results, (LEVEL,), (), "Levels of a hierarchical VAE and pixels")


def _draw(results: Results, needed: Sequence[str], further: Sequence[str], heading: str) -> Figure:
    roles = (*needed, *further)
    totals = fisher_totals(results.measurements)
    rows = mean_curves(totals[totals["role"].isin([PIXELS, *roles])])
    missing = [role for role in (PIXELS, *needed) if role not in set(rows["role"])]
    if missing:
        lacking = " and of ".join(f"`{role}`" for role in missing)
        return sentence_figure(f"Fisher curves of {lacking} were not measured in this study")
    dims = dict(zip(rows["tokenizer"], rows["dim"], strict=True))
    names = sorted(of_role(rows, roles), key=lambda name: dims[name])
    colours = dict(zip([*of_role(rows, [PIXELS]), *names], ("black", *PALETTE), strict=False))
    there = networks(rows)
    columns = len(TOTALS) + len(SHARES) + 1
    figure, axes = panel_grid(len(there), columns, panel=(1.25, 1.15), gap=(0.5, 0.5))
    for line, network in zip(axes, there, strict=True):
        own = rows[rows["network"] == network]
        for axis, (quantity, title) in zip(line, TOTALS.items(), strict=False):
            _curves(axis, own[own["quantity"] == quantity], "total", title, colours)
            axis.set_yscale("log")
        for axis, (quantity, title) in zip(line[len(TOTALS) :], SHARES.items(), strict=False):
            _curves(axis, own[own["quantity"] == quantity], "share", title, colours)
        _curves(line[-1], scaled_deviations(own), "deviation", DEVIATION, colours)
        line[0].set_ylabel(network)
    for axis in axes[-1]:
        axis.set_xlabel("noise variance v")
    set_title(figure, heading)
    _legend(figure, colours, dims)
    return figure


def mean_curves(totals: pd.DataFrame) -> pd.DataFrame:
    """Return the means over runs of curves, one row per network, tokenizer, quantity and v.

    Args:
        totals: from ``fisher_totals``.

    Returns:
        tokenizer, role, network, dim, quantity, v, total, spread (standard error over runs if
        there are several, else of the single run), share (per dimension, dimensionless),
        share_spread, and trusted: whether no run has a flag there.
    """
    keys = ["network", "tokenizer", "role", "dim", "quantity", "v"]
    grouped = totals.assign(flagged=totals["flags"] != "").groupby(keys, sort=False)
    means = grouped.agg(
        total=("total", "mean"),
        over_runs=("total", "sem"),
        measured=("stderr", "mean"),
        flagged=("flagged", "any"),
    ).reset_index()
    means["spread"] = means["over_runs"].fillna(means["measured"]).fillna(0.0)
    means["trusted"] = ~means["flagged"]
    cells = zip(means["quantity"], means["v"], means["dim"], strict=True)
    unit = pd.Series([per_dimension(*cell) for cell in cells], index=means.index, dtype=float)
    means["share"], means["share_spread"] = means["total"] * unit, means["spread"] * unit
    return means.drop(columns=["over_runs", "measured", "flagged"])


def scaled_deviations(means: pd.DataFrame) -> pd.DataFrame:
    """Return v^2 |F_D - F_d| / D of the FIR of every space but pixels (Fig. 3d).

    Args:
        means: from ``mean_curves``, for one network.

    Returns:
        Its FIR rows with ``deviation`` and ``deviation_spread``; a level is trusted if both
        curves are.
    """
    fir = means[means["quantity"] == "fir"]
    pixels = fir[fir["role"] == PIXELS].drop_duplicates("v").set_index("v")
    others = fir[(fir["role"] != PIXELS) & fir["v"].isin(pixels.index)]
    of_pixels = pixels.loc[others["v"]].set_index(others.index)
    unit = others["v"] ** 2 / of_pixels["dim"]
    return others.assign(
        deviation=unit * (of_pixels["total"] - others["total"]).abs(),
        deviation_spread=unit * (of_pixels["spread"] ** 2 + others["spread"] ** 2) ** 0.5,
        trusted=others["trusted"] & of_pixels["trusted"],
    )


def _curves(
    axis: Axes, rows: pd.DataFrame, column: str, title: str, colours: dict[str, str]
) -> None:
    """Draw one line per tokenizer; open markers are estimates with flags."""
    axis.set_title(title)
    axis.set_xscale("log")
    spread = "spread" if column == "total" else f"{column}_spread"
    shown = rows[rows[column] > 0] if column == "total" else rows
    if shown.empty:
        annotate_empty(axis, "this curve was not measured in this study")
        return
    for name in (name for name in colours if name in set(shown["tokenizer"])):
        curve, colour = shown[shown["tokenizer"] == name].sort_values("v"), colours[name]
        axis.plot(curve["v"], curve[column], color=colour, linewidth=0.8, label=name)
        for trusted, part in curve.groupby("trusted"):
            axis.errorbar(
                part["v"],
                part[column],
                yerr=part[spread],
                color=colour,
                linestyle="none",
                marker="o",
                markersize=MARK,
                markerfacecolor=colour if trusted else "white",
                markeredgewidth=0.6,
                elinewidth=0.6,
            )


def _legend(figure: Figure, colours: dict[str, str], dims: dict[str, int]) -> None:
    handles = {
        f"{name} (n = {dims[name]})": Line2D(
            [], [], color=colour, marker="o", markersize=MARK + 1, linewidth=1
        )
        for name, colour in colours.items()
    }
    handles["inconsistent or extrapolated estimate"] = Line2D(
        [], [], color=QUIET, marker="o", markerfacecolor="white", linestyle="none"
    )
    legend_below(figure, handles, len(handles))
