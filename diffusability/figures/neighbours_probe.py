"""Latent neighbour consistency against the linear probe that it stands for (Fig. 2)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusability.analysis.tables import cells
from diffusability.figures.numbering import number_points
from diffusability.figures.panels import (
    add_legend,
    draw_fit,
    draw_points,
    head,
    label_metric,
    number_names,
    panel_grid,
    say,
    wrapped_statement,
)
from diffusability.figures.results import Results

NEIGHBOURS = "semantics.lnc5"
PROBE = "semantics.probe"


def draw_neighbours_probe(results: Results) -> Figure:
    """Return a panel a family: probe accuracy (higher is better) against LNC (likewise)."""
    names = results.families
    figure, axes = panel_grid(1, len(names), panel=(2.6, 2.2), gap=(0.5, 0.75))
    for axis, family in zip(axes[0], names, strict=True):
        _draw_family(axis, results, family)
    head(figure, "Latent neighbour consistency and the linear probe")
    add_legend(figure, results)
    return figure


def _draw_family(axis: Axes, results: Results, family: str) -> None:
    axis.set_xlabel(label_metric(results, f"LNC of {family}", results.measured(NEIGHBOURS)))
    axis.set_ylabel("accuracy of the linear probe")
    for name, words in ((NEIGHBOURS, "LNC"), (PROBE, "the linear probe")):
        if results.measured(name) is None:
            say(axis, f"{words} ({name}) was not measured in this study")
            return
    paired = cells(results.measurements, NEIGHBOURS, PROBE, "", None).of_family(family)
    rows = paired.rows
    if rows.empty:
        say(axis, f"no tokenizer of {family} has both numbers")
        return
    draw_points(axis, rows, results)
    draw_fit(axis, rows["x"], rows["y"])
    wanted = {"family": family, "metric": NEIGHBOURS, "target": PROBE, "statistic": "pearson"}
    found = results.row("intercorrelations", **wanted)
    total = len(rows) + len(set(paired.missing.loc[paired.missing["excluded"], "tokenizer"]))
    axis.set_title(wrapped_statement(axis, "r", found, total))
    number_points(axis, rows["x"], rows["y"], number_names(results, rows["tokenizer"]))
