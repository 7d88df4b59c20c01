"""Generation quality, and its correlation with latent metrics, against training steps."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from diffusability.analysis.catalogue import HEADLINE_METRICS, name_metric
from diffusability.analysis.correlation import meaningless, turned
from diffusability.analysis.pairing import means_by_tokenizer
from diffusability.analysis.panels import CONTROL, GENERATION
from diffusability.figures.panels import (
    add_legend,
    annotate_empty,
    number,
    panel_grid,
    sentence_figure,
    set_title,
)
from diffusability.figures.perspectives import every_scope
from diffusability.figures.results import Results, Scope
from diffusability.figures.style import MEANINGLESS, PALETTE, QUIET, TEXT, cluster_styles

FAR = 3  # times the largest model: a control above that is not drawn as a line
# line style and words of each control
CONTROLS: dict[str, tuple[Literal[":", "--", "-."], str]] = {
    "noise": (":", "decoded noise"),
    "gaussian": ("--", "decoded Gaussian fit"),
    "posterior": ("-.", "decoded held-out latents"),
}


def draw_training_steps(results: Results) -> Figure:
    """Return a row per family and backbone: the target, and r of each metric, against the step.

    Only where a study has snapshots; else one sentence.
    """
    scopes = every_scope(results, results.target)
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    every = results.tables["measurements"]
    scopes = [scope for scope in scopes if len(_steps(every, scope)) > 1]
    if not scopes:
        return sentence_figure(
            "every backbone was measured at its last step only (train.snapshots): no curve"
        )
    metrics = {short: of for short, of in HEADLINE_METRICS.items() if results.measured(of)}
    figure, axes = panel_grid(
        len(scopes), 1 + len(metrics), panel=(1.9, 1.35), gap=(0.3, 0.7), left=0.85
    )
    for row, scope in zip(axes, scopes, strict=True):
        _draw_target(row[0], results, scope)
        row[0].set_ylabel(f"{scope.backbone}, {scope.family}\n{name_metric(scope.target)}")
        row[0].set_title("Images (lower is better)")
        for axis, (short, metric) in zip(row[1:], metrics.items(), strict=True):
            _draw_correlation(axis, results, scope, short, metric)
        for axis in row[2:]:
            axis.tick_params(labelleft=False)
    for axis in axes[-1]:
        axis.set_xlabel("training steps")
    set_title(
        figure,
        "Image quality, and its correlation r with each metric, along training "
        "(positive r: in the expected direction)",
    )
    add_legend(figure, results, _handles(axes[:, 0]), key=False)
    return figure


def _steps(table: pd.DataFrame, scope: Scope) -> list[int]:
    """Return the steps at which a backbone was measured, ascending."""
    own = table[(table["backbone"] == scope.backbone) & (table["metric"] == scope.target)]
    return sorted(int(step) for step in own["step"].dropna().unique())


def _draw_target(axis: Axes, results: Results, scope: Scope) -> None:
    """Draw the mean over trainings of each tokenizer against the step, and the controls."""
    table = results.tables["measurements"]
    table = table[table["tokenizer"].isin(results.measurements["tokenizer"])]
    steps = _steps(table, scope)
    own = table[(table["backbone"] == scope.backbone) & (table["metric"] == scope.target)]
    own = own[(own["family"] == scope.family) & (own["guidance"] == scope.guidance)]
    if own["value"].notna().sum() == 0:
        annotate_empty(axis, f"{scope.family} was not sampled with {scope.backbone}")
        return
    styles = cluster_styles(results.measurements["cluster"])
    curves = [means_by_tokenizer(own[own["step"] == step]).assign(step=step) for step in steps]
    clusters = own.drop_duplicates("tokenizer").set_index("tokenizer")["cluster"]
    sns.lineplot(
        pd.concat(curves).join(clusters).reset_index(),
        x="step",
        y="value",
        units="tokenizer",
        estimator=None,
        hue="cluster",
        palette={cluster: colour for cluster, (colour, _) in styles.items()},
        style="cluster",
        markers={cluster: marker for cluster, (_, marker) in styles.items()},
        dashes=False,
        markersize=3,
        markeredgewidth=0,
        linewidth=0.8,
        alpha=0.8,
        legend=False,
        ax=axis,
    )
    axis.set(xlabel="", ylabel="")
    axis.set_yscale("log")
    _draw_controls(axis, table, scope, float(own["value"].max()))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    _step_axis(axis, steps)


def _draw_controls(axis: Axes, table: pd.DataFrame, scope: Scope, largest: float) -> None:
    """Draw each control as a line; one far above all models is written, so as to see those."""
    for name, (style, words) in CONTROLS.items():
        value = control_level(table, scope, name)
        if value > FAR * largest:
            said = f"{words}: {value:.3g}"
            text = axis.text(0.98, 0.98, said, fontsize=TEXT - 1, color=QUIET, ha="right", va="top")
            text.set_transform(axis.transAxes)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # over a line
        elif math.isfinite(value):
            axis.axhline(value, color=QUIET, linestyle=style, linewidth=0.9, zorder=1, label=words)


def control_level(table: pd.DataFrame, scope: Scope, control: str) -> float:
    """Return the median of a control over the tokenizers of a family; NaN if not measured."""
    metric = scope.target.replace(GENERATION, f"{CONTROL}{control}.", 1)
    rows = table[(table["metric"] == metric) & (table["family"] == scope.family)]
    return float(rows.groupby("tokenizer")["value"].mean().median())


def _draw_correlation(axis: Axes, results: Results, scope: Scope, short: str, metric: str) -> None:
    """Draw r of one metric with its interval over clusters, as a band and as bars."""
    found = correlations_by_step(results, scope, metric)
    if found.empty:
        axis.set_title(short)
        annotate_empty(axis, "no correlation: see the table correlations")
        return
    axis.axhline(0, color="0.6", linewidth=0.8)
    colour = PALETTE[0]
    x = found["step"].to_numpy(float)
    axis.fill_between(x, found["low"], found["high"], color=colour, alpha=0.15, linewidth=0)
    axis.vlines(x, found["low"], found["high"], color=colour, linewidth=1.6, alpha=0.55)
    axis.plot(x, found["r"], color=colour, linewidth=1.1)
    for nothing, part in found.groupby("meaningless"):
        axis.plot(
            part["step"], part["r"], "o", color=MEANINGLESS if nothing else colour, markersize=3.5
        )
    last = found.iloc[-1]
    known = pd.notna(last["low"])
    ends = f"[{number(last['low'])}, {number(last['high'])}]" if known else "(no interval)"
    axis.set_title(f"{short}\n{number(last['r'])} {ends}")
    axis.set_ylim(-1.05, 1.05)
    axis.set_yticks([-1, 0, 1], ["\N{MINUS SIGN}1", "0", "1"])
    _step_axis(axis, _steps(results.tables["measurements"], scope))


def correlations_by_step(results: Results, scope: Scope, metric: str) -> pd.DataFrame:
    """Return step, turned r, low and high of its interval over clusters, and ``meaningless``.

    Steps without r have no row; an interval that does not exist is NaN.
    """
    table = results.tables["correlations"]
    own = table[(table["metric"] == metric) & (table["target"] == scope.target)]
    own = own[(own["backbone"] == scope.backbone) & (own["family"] == scope.family)]
    own = own[(own["guidance"] == scope.guidance) & own["pearson"].notna() & own["step"].notna()]
    rows = [_oriented(row) for row in own.sort_values("step").to_dict("records")]
    return pd.DataFrame(rows, columns=["step", "r", "low", "high", "meaningless"])


def _oriented(row: Mapping[Any, Any]) -> tuple[int, float, float, float, bool]:
    return int(row["step"]), *turned(row), meaningless(row)


def _step_axis(axis: Axes, steps: list[int]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(steps, [f"{step:,}" for step in steps])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.minorticks_off()
    axis.set_xlim(steps[0] / 1.25, steps[-1] * 1.25)


def _handles(axes: Iterable[Axes]) -> dict[str, Line2D]:
    """Return a line of each control that is drawn."""
    drawn = {str(line.get_label()) for axis in axes for line in axis.get_lines()}
    return {
        words: Line2D([], [], color=QUIET, linestyle=style, linewidth=0.9)
        for style, words in CONTROLS.values()
        if words in drawn
    }
