"""Every figure of a study, declared once.

To add a figure: declare it here with what a study needs for it, write the function, and put its
caption into `report/captions/figures/<name>.rst`. Rules, drawing and the report follow from the
declaration.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusability.errors import StudyError
from diffusability.lazy import load_code
from diffusability.study.core.problems import nearest
from diffusability.study.entries.roles import GPE, LEVEL, PERMUTED, PIXELS, VAE, role_of
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.study import Study

FIGURE_FORMATS = ("svg", "pdf", "png")
CORRELATED = 3  # tokenizers of a family that a correlation takes
Need = Callable[[Study], bool]


def models(study: Study) -> bool:
    """Whether images are generated."""
    return study.has_models


def guidance_sweep(study: Study) -> bool:
    """Whether a backbone is sampled at several guidance scales."""
    return any(len(study.sampling.scales(name)) > 1 for name in study.selected_backbones)


def snapshots(study: Study) -> bool:
    """Whether a backbone is measured at several training steps."""
    return any(study.backbones[name].train.snapshots for name in study.selected_backbones)


def trajectories(study: Study) -> bool:
    """Whether a backbone is sampled in steps of equal time, whose lengths are comparable."""
    flow = any(study.backbones[name].process == "flow" for name in study.selected_backbones)
    return flow and study.sampling.shift == 1


def fdr6(study: Study) -> bool:
    """Whether FDr6 is measured."""
    return study.has_models and study.generation.fdr6 is not None


def class_scores(study: Study) -> bool:
    """Whether the network that judges images names classes, as the Inception score takes."""
    return study.has_models and study.encoders[study.generation.extractor].names_classes


def comparison(study: Study) -> bool:
    """Whether there are several backbones, or several families of tokenizers."""
    return len(study.selected_backbones) > 1 or len(_families(study)) > 1


def tokenizers(least: int) -> Need:
    """Return whether a study has so many tokenizers."""
    return lambda study: len(study.selected_tokenizers) >= least


def correlation(study: Study) -> bool:
    """Whether a family has enough tokenizers for a correlation."""
    return max(_families(study).values()) >= CORRELATED


def measured(group: str) -> Need:
    """Return whether a metric group is measured of any tokenizer."""
    return lambda study: (
        group in study.selected_metrics
        and any(group not in study.left_out(name) for name in study.selected_tokenizers)
    )


def perspectives(least: int) -> Need:
    """Return whether so many perspectives are measured, each by the metric that stands for it."""
    groups = [n for n, g in METRIC_GROUPS.items() if g.shows and g.rank in ("headline", "proxy")]
    return lambda study: sum(measured(group)(study) for group in groups) >= least


def roles(*wanted: str) -> Need:
    """Return whether a study has tokenizers of all these roles of the Fisher paper."""
    return lambda study: set(wanted) <= _roles(study)


def any_role(study: Study) -> bool:
    """Whether a tokenizer has a role in the Fisher paper."""
    return bool(_roles(study) & {PIXELS, PERMUTED, GPE, VAE, LEVEL})


def _families(study: Study) -> Counter[str]:
    """Return the number of tokenizers of each family."""
    return Counter(study.tokenizers[name].family for name in study.selected_tokenizers)


def _roles(study: Study) -> set[str]:
    chosen = [study.tokenizers[name] for name in study.selected_tokenizers]
    return {role_of(entry.family, entry.cluster) for entry in chosen}


@dataclass(frozen=True)
class FigureSource:
    """How one figure is made.

    Attributes:
        code: `module:function` that draws it from the results of a study.
        reads: the tables that it is drawn from.
        needs: what a study has to have for the figure to show data; else it is left out.
    """

    code: str
    reads: tuple[str, ...]
    needs: tuple[Need, ...]

    def function(self) -> Callable[..., Any]:
        """Import and return the function that draws the figure."""
        function: Callable[..., Any] = load_code(self.code)
        return function

    def shows_data(self, study: Study) -> bool:
        """Return whether the figure shows data of a study."""
        return all(need(study) for need in self.needs)


def _figure(code: str, *tables: str, needs: tuple[Need, ...] = (models,)) -> FigureSource:
    reads = ("measurements", "tokenizers", *tables)
    return FigureSource(f"diffusability.figures.{code}", reads, needs)


_CORRELATED = (models, correlation, perspectives(1))

# in the order of the report
FIGURES: Mapping[str, FigureSource] = {
    "correlations": _figure("correlations:draw_correlations", "correlations", needs=_CORRELATED),
    "strongest": _figure("strongest:draw_strongest", "correlations", needs=_CORRELATED),
    # as the two before, for a phone; the report shows either
    "correlations_narrow": _figure(
        "correlations:draw_correlations_narrow", "correlations", needs=_CORRELATED
    ),
    "strongest_narrow": _figure(
        "strongest:draw_strongest_narrow", "correlations", needs=_CORRELATED
    ),
    "scheme": _figure("scheme:draw_scheme", needs=()),
    "all_metrics": _figure("correlations:draw_all_metrics", "correlations", needs=_CORRELATED),
    "perspectives": _figure(
        "perspectives:draw_perspectives", "correlations", needs=(models, perspectives(1))
    ),
    "generalization": _figure(
        "perspectives:draw_generalization",
        "correlations",
        needs=(models, perspectives(1), comparison),
    ),
    "best_guidance": _figure(
        "guidance:draw_best_guidance", "correlations", needs=(guidance_sweep, perspectives(1))
    ),
    "pairs": _figure("pairs:draw_pairs", "regressions", needs=(models, perspectives(2))),
    "intercorrelations": _figure(
        "pairs:draw_intercorrelations", "intercorrelations", needs=(correlation, perspectives(2))
    ),
    "trajectories": _figure(
        "trajectories:draw_trajectories", "correlations", needs=(trajectories,)
    ),
    "length_ratio": _figure("trajectories:draw_length_ratio", "profiles", needs=(trajectories,)),
    "guidance": _figure("guidance:draw_guidance", "guidance", needs=(guidance_sweep,)),
    "training_steps": _figure(
        "training_steps:draw_training_steps", "correlations", needs=(snapshots,)
    ),
    "neighbours_probe": _figure(
        "pairs:draw_neighbours_probe",
        "intercorrelations",
        needs=(measured("semantics"), tokenizers(CORRELATED)),
    ),
    "reconstruction": _figure(
        "noise_floor:draw_reconstruction",
        "comparability",
        needs=(measured("reconstruction"), tokenizers(2)),
    ),
    "noise_floor": _figure("noise_floor:draw_noise_floor", "noise_floor"),
    "inception_score": _figure(
        "perspectives:draw_inception_score",
        "correlations",
        needs=(class_scores, perspectives(1)),
    ),
    "fdr6": _figure("perspectives:draw_fdr6", "correlations", needs=(fdr6, perspectives(1))),
    "fisher_curves": _figure("fisher_curves:draw_fisher_curves", needs=(measured("fisher"),)),
    "fisher_encoders": _figure(
        "fisher_latents:draw_fisher_encoders", needs=(measured("fisher"), roles(PIXELS, GPE, VAE))
    ),
    "fisher_levels": _figure(
        "fisher_latents:draw_fisher_levels", needs=(measured("fisher"), roles(PIXELS, LEVEL))
    ),
    "distortion": _figure("distortion:draw_distortion", needs=(measured("distortion"),)),
    "spectra": _figure("spectra:draw_spectra", "spectra", needs=(measured("geometry"), any_role)),
}


def figure_named(name: str) -> FigureSource:
    """Return the declaration of a figure.

    Raises:
        StudyError: no figure has this name.
    """
    if name not in FIGURES:
        raise StudyError(f"no figure is called `{name}`: {nearest(name, FIGURES)}")
    return FIGURES[name]
