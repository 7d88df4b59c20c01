"""What represents each perspective against generation quality, by tokenizer family (Fig. 6)."""

from matplotlib.figure import Figure

from diffusability.figures.catalogue import REPRESENTATIVES, name_metric
from diffusability.figures.panels import add_legend, compared, head, sentence_figure
from diffusability.figures.relation import draw_relations
from diffusability.figures.results import Results
from diffusability.figures.scope import reference_scope


def draw_families(results: Results) -> Figure:
    """Return a row of panels a family, on the reference backbone at its smallest guidance."""
    reference = reference_scope(results, results.target)
    scopes = [reference.at(family=name) for name in results.families] if reference else []
    if not scopes:
        return sentence_figure(f"{results.target} was not measured in this study")
    alone = "" if len(scopes) > 1 else "one family: there is nothing to compare it with"
    figure, axes = compared(len(scopes), len(REPRESENTATIVES), alone)
    draw_relations(axes, results, scopes, REPRESENTATIVES)
    head(figure, f"{name_metric(results.target)} by tokenizer family")
    add_legend(figure, results)
    return figure
