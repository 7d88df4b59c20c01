"""Panels: grid, points, titles, legends, and notes in empty panels."""

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusability.analysis.correlation import turned
from diffusability.analysis.panels import higher_is_better, stated_levels
from diffusability.figures.results import Results
from diffusability.figures.style import EMPTY, PAGE, QUIET, TEXT, cluster_styles, use_style

NARROWEST = 4.2  # inches, smallest width of a figure with title and legend
THINNEST = 0.9  # inches, smallest width of a panel
LEFT = 0.8  # inches, room for a label of three lines
MARKER = 4.5  # points
SHAPE = {"*": 1.5, "X": 1.15, "P": 1.15}  # scale of markers that look small
ENDS = ("value", "low", "high")
NAMED = 12  # maximum tokenizers named under a figure
DIRECTION = {True: "higher is better", False: "lower is better", None: "no declared direction"}
_CHARACTER = 0.56 * TEXT / 72  # inches, mean width of a character


def panel_grid(
    rows: int,
    columns: int,
    *,
    panel: tuple[float, float],
    gap: tuple[float, float] = (0.2, 0.75),
    left: float = 0.6,
    foot: float = 0.0,
    narrowest: float = NARROWEST,
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its (rows, columns) panels, with fixed sizes in inches.

    Panels are made narrower where a figure would be wider than the page.

    Title and legend are outside this rectangle; saving the figure makes room for them.

    Args:
        rows: of panels. columns: of panels.
        panel: width and height of one.
        gap: between two panels, horizontally and vertically, for titles and labels.
        left: room for the labels of the first column.
        foot: room below the last row.
        narrowest: width of the figure; panels are made wider where it would be less.
    """
    use_style()
    smallest, largest = (
        (width - left - (columns - 1) * gap[0]) / columns for width in (narrowest, PAGE)
    )
    panel = (max(min(panel[0], largest), smallest, THINNEST), panel[1])
    width = left + columns * panel[0] + (columns - 1) * gap[0]
    height = foot + gap[1] + rows * panel[1] + (rows - 1) * gap[1]
    figure = Figure(figsize=(width, height))
    axes = np.empty((rows, columns), dtype=object)
    for row in range(rows):
        for column in range(columns):
            x = left + column * (panel[0] + gap[0])
            y = foot + 0.55 * gap[1] + (rows - 1 - row) * (panel[1] + gap[1])
            bounds = (x / width, y / height, panel[0] / width, panel[1] / height)
            axes[row, column] = figure.add_axes(bounds)
            axes[row, column].locator_params("x", nbins=max(3, int(panel[0] / 0.38)))
            axes[row, column].locator_params("y", nbins=5)
    return figure, axes


def wrapped_grid(
    count: int, columns: int, *, panel: tuple[float, float], gap: tuple[float, float], **room: float
) -> tuple[Figure, np.ndarray]:
    """Return a figure and its panels for `count` items, in rows of at most so many columns.

    The panels that are left over in the last row are removed; `panel`, `gap` and `room` are those
    of ``panel_grid``.
    """
    columns = min(columns, count)
    figure, axes = panel_grid(-(-count // columns), columns, panel=panel, gap=gap, **room)
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, axes


def lowest(axes: np.ndarray) -> list[Axes]:
    """Return the lowest panel of each column that was not removed."""
    return [[axis for axis in column if axis.figure is not None][-1] for column in axes.T]


def comparison_grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Return small panels, one row per compared item."""
    return panel_grid(rows, columns, panel=(1.42, 1.2), gap=(0.12, 0.85), left=LEFT)


def sentence_figure(sentence: str) -> Figure:
    """Return a figure that states why there is nothing to draw."""
    figure, axes = panel_grid(1, 1, panel=(6.0, 1.2), left=0.1)
    annotate_empty(axes[0, 0], sentence)
    return figure


def annotate_empty(axis: Axes, sentence: str) -> None:
    """Write the reason into a panel without data."""
    axis.set(xticks=[], yticks=[], label=f"{EMPTY}{sentence}")
    for spine in axis.spines.values():
        spine.set(edgecolor="0.8", visible=True)
    axis.text(
        0.5,
        0.5,
        wrapped(axis, sentence, 0.92),
        transform=axis.transAxes,
        ha="center",
        va="center",
        fontsize=TEXT,
        color=QUIET,
        style="italic",
    )


def wrapped(axis: Axes, sentence: str, share: float = 1.15) -> str:
    """Break a sentence into lines that fill a share of a panel's width."""
    return textwrap.fill(sentence, max(12, int(share * panel_size(axis)[0] / _CHARACTER)))


def panel_size(axis: Axes) -> np.ndarray:
    """Return width and height of a panel in inches."""
    return np.array([axis.bbox.width, axis.bbox.height]) / axis.figure.dpi


def statistic_title(axis: Axes, symbol: str, row: Mapping[str, Any] | None, total: int) -> str:
    """Return a statistic with its interval and n as the two lines of a title.

    Args:
        axis: panel whose width limits the lines.
        symbol: of the statistic.
        row: value, low, high, n and note of a table's row; None if the table has none.
        total: number of tokenizers in the panel's family.
    """
    if row is None:
        return wrapped(axis, f"no {symbol}: the tables have none for this panel")
    n = f"n = {row['n']:.0f}" + (f" of {total}" if total != row["n"] else "")
    reason = str(row["note"]).partition(";")[0]
    if pd.isna(row["value"]):
        return wrapped(axis, f"no {symbol}: {reason.removesuffix(': no correlation')}")
    value = f"{symbol} = {number(row['value'])}"
    if pd.isna(row["low"]):
        reason = reason.removesuffix(": no interval")
        return f"{value}\n" + wrapped(axis, f"no interval: {reason}" if reason else "no interval")
    interval = f"[{number(row['low'])}, {number(row['high'])}]"
    one_line = f"{value} {interval}"
    if len(one_line) * _CHARACTER > 1.05 * panel_size(axis)[0]:
        return f"{value}, {n}\n{interval}"
    return f"{one_line}\n{n}"


def label_lines(axis: Axes, label: str) -> str:
    """Break the label of an axis before its bracket if it is wider than the panel."""
    wide = len(label) * _CHARACTER > 1.05 * panel_size(axis)[0]
    return label.replace(" (", "\n(", 1) if wide else label


def turned_row(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a row of correlations with r and its interval turned as value, low and high."""
    return None if row is None else dict(row) | dict(zip(ENDS, turned(row), strict=True))


def number(value: float) -> str:
    """Return a correlation or share with two decimals and a true minus."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def draw_points(
    axis: Axes, rows: pd.DataFrame, results: Results, failed: Collection[str] = ()
) -> None:
    """Draw one point per tokenizer with its standard errors, by cluster.

    Args:
        axis: the panel.
        rows: tokenizer, cluster, x, y, x_stderr, y_stderr (``Cells.rows``).
        results: of the study; its clusters set the styles.
        failed: tokenizers whose diffusion models failed; they are drawn hollow.
    """
    bad = rows["tokenizer"].isin(list(failed))
    for (cluster, (colour, marker)), hollow in product(
        cluster_styles(results.measurements["cluster"]).items(), (False, True)
    ):
        part = rows[(rows["cluster"] == cluster) & (bad == hollow)]
        if part.empty:
            continue
        axis.errorbar(
            part["x"],
            part["y"],
            xerr=part["x_stderr"].fillna(0),
            yerr=part["y_stderr"].fillna(0),
            linestyle="none",
            marker=marker,
            markersize=MARKER * SHAPE.get(marker, 1.0),
            markerfacecolor="white" if hollow else colour,
            markeredgecolor=colour if hollow else "white",
            markeredgewidth=0.9 if hollow else 0.3,
            color=colour,
            ecolor="0.75",
            elinewidth=0.6,
            zorder=3,
            label=f"{cluster}{', failed' if hollow else ''}",
        )
    if len(rows):
        axis.set_xlim(_limits(rows["x"], rows["x_stderr"]))
        axis.set_ylim(_limits(rows["y"], rows["y_stderr"]))


def _limits(values: pd.Series, errors: pd.Series) -> tuple[float, float]:
    """Return limits that include all points, and error bars unless these are much longer."""
    lowest, highest = values.min(), values.max()
    reach = (highest - lowest) or abs(highest) or 1.0
    bars = errors.fillna(0)
    low = max((values - bars).min(), lowest - reach)
    high = min((values + bars).max(), highest + reach)
    return low - 0.05 * reach, high + 0.05 * reach


def draw_fit(axis: Axes, rows: pd.DataFrame, known: bool) -> None:
    """Draw the least-squares line of y on x through three points or more, unless x is constant.

    Args:
        axis: the panel. rows: x and y. known: whether the interval of r leaves out zero; the line
            is dashed where it does not.
    """
    if len(rows) > 2 and rows["x"].nunique() > 1:
        line = {"color": "0.7", "linewidth": 1, "zorder": 1, "linestyle": "-" if known else "--"}
        # without name, so the axes keep their labels
        x, y = rows["x"].to_numpy(), rows["y"].to_numpy()
        sns.regplot(x=x, y=y, scatter=False, ci=None, line_kws=line, ax=axis)


def draw_levels(axis: Axes, results: Results, metric: str, *, across: bool = False) -> None:
    """Draw chance and ceiling of a metric, where it states them, and make room for near ones.

    Args:
        axis: the panel, with its points. results: of the study.
        metric: on the x axis. across: it is on the y axis instead.
    """
    get, set_, line = (
        (axis.get_ylim, axis.set_ylim, axis.axhline)
        if across
        else (axis.get_xlim, axis.set_xlim, axis.axvline)
    )
    low, high = get()
    reach = high - low
    for name, level in stated_levels(results.indexed, metric).items():
        if not low - reach < level < high + reach:
            continue
        line(level, color=QUIET, linewidth=0.8, linestyle=":", zorder=0, label=name)
        set_(min(low, level - 0.04 * reach), max(high, level + 0.04 * reach))
        low, high = get()
        place = (0.98, level) if across else (level, 0.98)
        left = not across and level < low + 0.15 * (high - low)  # else the name crosses the axis
        axis.annotate(
            name,
            place,
            xycoords=axis.get_yaxis_transform() if across else axis.get_xaxis_transform(),
            ha="left" if left else "right",
            va="bottom" if across else "top",
            rotation=0 if across else 90,
            fontsize=TEXT - 1,
            color=QUIET,
        )


def share_limits(axes: Sequence[Axes], drawn: Sequence[bool]) -> None:
    """Give all panels of a row with data the same y axis, labelled on the first only."""
    filled = [axis for axis, has in zip(axes, drawn, strict=True) if has]
    if not filled:
        return
    ends = np.array([axis.get_ylim() for axis in filled])
    for axis in filled:
        axis.set_ylim(ends[:, 0].min(), ends[:, 1].max())
        if axis is not filled[0]:
            axis.tick_params(labelleft=False)


def point_labels(results: Results, tokenizers: Iterable[str]) -> list[str]:
    """Return the numbers of tokenizers as text."""
    return [str(results.numbers[name]) for name in tokenizers]


def label_metric(results: Results, short: str, metric: str | None) -> str:
    """Return the label of an axis: short name and direction."""
    if metric is None:
        return short
    return f"{short} ({DIRECTION[higher_is_better(results.indexed, metric)]})"


def set_title(figure: Figure, title: str) -> None:
    """Write the title above a figure."""
    width, height = figure.get_size_inches()
    figure.text(
        0.5,
        1 + 0.05 / height,
        textwrap.fill(title, int(width / (_CHARACTER * 1.1))),
        ha="center",
        va="bottom",
        fontsize=TEXT + 1,
    )


def legend_below(
    figure: Figure, handles: Mapping[str, Artist], columns: int, **layout: Any
) -> None:
    """Put a legend under a figure.

    Args:
        figure: whose panels are drawn. handles: by label. columns: of the legend.
        layout: further options of matplotlib's legend.
    """
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=columns,
        frameon=False,
        **layout,
    )


def add_legend(
    figure: Figure, results: Results, extra: Mapping[str, Line2D] | None = None, *, key: bool = True
) -> None:
    """Put a legend of clusters and numbered tokenizers below a figure.

    Args:
        figure: whose panels are drawn.
        results: of the study.
        extra: further handles by label.
        key: whether the figure numbers its points.
    """
    handles = {
        cluster: Line2D([], [], color=colour, marker=marker, markersize=5.5, linestyle="none")
        for cluster, (colour, marker) in cluster_styles(results.measurements["cluster"]).items()
    } | dict(extra or {})
    if any(str(c.get_label()).endswith(", failed") for a in figure.axes for c in a.containers):
        hollow = Line2D([], [], color=QUIET, marker="o", markersize=5.5, linestyle="none")
        hollow.set_markerfacecolor("white")
        handles["hollow: models failed"] = hollow
    entry = 0.42 + _CHARACTER * max(map(len, handles))  # inches
    fitting = max(2, int(figure.get_size_inches()[0] / entry))  # entries per row
    legend_below(figure, handles, min(len(handles), fitting), handletextpad=0.3, columnspacing=1.2)
    if key:
        height = figure.get_size_inches()[1]
        lines = -(-len(handles) // fitting)
        figure.text(
            0.5,
            -(0.12 + 0.17 * lines) / height,
            _key(figure, results),
            ha="center",
            va="top",
            fontsize=TEXT - 0.5,
            color=QUIET,
        )


def _key(figure: Figure, results: Results) -> str:
    there = dict.fromkeys(results.measurements["tokenizer"])
    line = max(30, int(figure.get_size_inches()[0] / _CHARACTER))
    if len(there) > NAMED:
        sentence = (
            "Numbers are positions in the study file; "
            "a number that would cover a point or another number is omitted."
        )
        return textwrap.fill(sentence, line)
    text = "   ".join(f"{results.numbers[name]}\u00a0{name}" for name in there)
    return textwrap.fill(text, line, break_on_hyphens=False)
