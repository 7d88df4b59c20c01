"""What represents each perspective against generation quality, by backbone (Fig. 5)."""

from matplotlib.figure import Figure

from diffusability.figures.catalogue import REPRESENTATIVES, name_metric
from diffusability.figures.panels import add_legend, compared, head, sentence_figure
from diffusability.figures.relation import draw_relations
from diffusability.figures.results import Results
from diffusability.figures.scope import backbone_scopes


def draw_backbones(results: Results) -> Figure:
    """Return a row of panels a backbone, at its smallest guidance scale, in one family."""
    scopes = list(backbone_scopes(results, results.target))
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    alone = "" if len(scopes) > 1 else "one backbone: there is nothing to compare it with"
    figure, axes = compared(len(scopes), len(REPRESENTATIVES), alone)
    draw_relations(axes, results, scopes, REPRESENTATIVES)
    head(figure, f"{name_metric(results.target)} by backbone")
    add_legend(figure, results)
    return figure
