"""Straightness and efficiency of sampling trajectories against generation quality (Fig. 9)."""

from matplotlib.figure import Figure

from diffusability.figures.catalogue import TRAJECTORY, name_metric
from diffusability.figures.panels import add_legend, head, panel_grid, sentence_figure
from diffusability.figures.relation import draw_relations
from diffusability.figures.results import Results
from diffusability.figures.scope import backbone_scopes


def draw_trajectories(results: Results) -> Figure:
    """Return a row of panels a backbone, at its smallest guidance scale, in one family."""
    scopes = list(backbone_scopes(results, results.target))
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    figure, axes = panel_grid(len(scopes), len(TRAJECTORY), panel=(2.5, 1.6))
    draw_relations(axes, results, scopes, TRAJECTORY)
    head(figure, f"{name_metric(results.target)} and the paths that sampling takes")
    add_legend(figure, results)
    return figure
