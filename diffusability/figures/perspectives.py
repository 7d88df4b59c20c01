"""Every perspective's metrics against generation quality (Fig. 4, arXiv 2606.03578)."""

from matplotlib.figure import Figure

from diffusability.figures.catalogue import SHOWN, name_metric
from diffusability.figures.panels import add_legend, head, panel_grid, sentence_figure
from diffusability.figures.relation import draw_relation, finish_row
from diffusability.figures.results import Results
from diffusability.figures.scope import reference_scope

COLUMNS = 4


def draw_perspectives(results: Results) -> Figure:
    """Return the panels for the Fréchet distance of generated images."""
    return draw_perspectives_of(results, results.target)


def draw_perspectives_inception_score(results: Results) -> Figure:
    """Return the panels for the Inception score (higher is better)."""
    return draw_perspectives_of(results, "generation.inception_score_*")


def draw_perspectives_fdr6(results: Results) -> Figure:
    """Return the panels for FDr6, the mean of six Fréchet distances (lower is better)."""
    return draw_perspectives_of(results, "generation.fdr6")


def draw_perspectives_of(results: Results, pattern: str) -> Figure:
    """Return one panel a metric: the reference backbone, guidance scale and family.

    Args:
        results: of the study.
        pattern: shell pattern of the generation metric.
    """
    target = results.measured(pattern)
    scope = reference_scope(results, target) if target else None
    if target is None or scope is None:
        return sentence_figure(f"{name_metric(pattern)} ({pattern}) was not measured in this study")
    names = list(SHOWN.items())
    figure, axes = panel_grid(-(-len(names) // COLUMNS), COLUMNS, panel=(2.2, 1.75))
    for place, row in enumerate(axes):
        metrics = names[place * COLUMNS : (place + 1) * COLUMNS]
        points = [
            draw_relation(axis, results, metric, scope)
            for axis, metric in zip(row, metrics, strict=True)
        ]
        finish_row(row, points, results)
        row[0].set_ylabel(name_metric(target))
    head(figure, f"{name_metric(target)} of {scope.place}, by perspective")
    add_legend(figure, results)
    return figure
