"""Names of measurements that a study can declare tests of, before it is run."""

from fnmatch import fnmatchcase

from diffusability.study.core.names import distance_name
from diffusability.study.metrics.generation import GenerationMetric
from diffusability.study.metrics.groups import METRIC_GROUPS, MetricsSpec
from diffusability.study.metrics.perspectives import ContinuityMetric


def declarable_metrics(metrics: MetricsSpec) -> tuple[str, ...]:
    """Return the shown metrics of the declared groups; a name may be a shell pattern."""
    names: list[str] = []
    for group, options in metrics.groups.items():
        own = list(METRIC_GROUPS[group].shows.values())
        if isinstance(options, ContinuityMetric):  # named by its extractor
            own = [f"{group}.{distance_name('ifd', options.extractor)}"]
        names += own
    if metrics.fisher is not None and metrics.fisher.learned is None:
        names = [name for name in names if not fnmatchcase(name, "fisher.learned_*")]
    return tuple(names)


def declarable_targets(generation: GenerationMetric) -> tuple[str, ...]:
    """Return the measurements of generated images that metrics of latents are correlated with."""
    extractor = generation.extractor
    names = [distance_name("fd", extractor), f"inception_score_{extractor}"]
    names += ["fdr6"] if generation.fdr6 is not None else []
    return tuple(f"generation.{name}" for name in names)
