"""The headline metrics of tables and figures, by metric group, and their names in figures."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from diffusability.study.metrics.groups import METRIC_GROUPS

# title of a metric group: short name and metric (a shell pattern); the first represents the group
PERSPECTIVES = {group.title: dict(group.shows) for group in METRIC_GROUPS.values() if group.shows}
SHOWN = {short: name for metrics in PERSPECTIVES.values() for short, name in metrics.items()}
REPRESENTATIVES = METRIC_GROUPS.representatives("headline", "proxy")
# those of the perspectives that a figure with many panels can show
HEADLINE_METRICS = METRIC_GROUPS.representatives("headline")
# generation metrics paired with every predictor; the others only with the shown metrics
HEADLINE_TARGETS = (
    "generation.fd_*",
    "generation.fid",
    "generation.inception_score_*",
    "generation.fdr6",
)
# one metric per group, as the papers highlight them; missing ones are omitted
HEADLINE = tuple(REPRESENTATIVES.values())
PROBE = "semantics.probe"
DISTANCE = r"generation\.(fid|fd_.*)"  # the Fréchet distance, by its extractor
RECONSTRUCTION_DISTANCE = DISTANCE.replace("generation", "reconstruction")
RECONSTRUCTION = "reconstruction.psnr"  # held fixed in partial correlations
TRAJECTORY = {
    "straightness": "trajectory.straightness",
    "efficiency": "trajectory.efficiency",
    "angle between steps": "trajectory.angle",
}
# correlated with every generation metric
SHOWN_METRICS = (*SHOWN.values(), *TRAJECTORY.values(), PROBE, "reconstruction.*")
_WORDS = (
    ("generation.fd_", "Fréchet distance"),
    ("generation.fid", "FID"),
    ("generation.sfid", "sFID"),
    ("generation.inception_score_", "Inception score"),
    ("generation.fdr6", "FDr6"),
    ("generation.fdr_", "FDr"),
    ("generation.class_accuracy_", "class accuracy"),
    ("reconstruction.fd_", "reconstruction Fréchet distance"),
    ("reconstruction.f[di]", "reconstruction Fréchet distance"),
    ("reconstruction.fid", "reconstruction FID"),
    ("reconstruction.psnr", "PSNR"),
    ("reconstruction.ssim", "SSIM"),
    ("reconstruction.lpips", "LPIPS"),
)


def represented(metrics: Iterable[str]) -> dict[str, str]:
    """Return the metrics that represent a perspective, one each, with their short names."""
    there = list(dict.fromkeys(metrics))
    found = {
        short: [metric for metric in there if fnmatchcase(metric, pattern)]
        for short, pattern in REPRESENTATIVES.items()
    }
    return {own[0]: short for short, own in found.items() if own}


def name_metric(metric: str) -> str:
    """Return the name of a metric in figures; distances keep the name of their extractor."""
    for prefix, words in _WORDS:
        if metric.startswith(prefix):
            extractor = metric.removeprefix(prefix).strip("_*")
            return f"{words} ({extractor})" if extractor else words
    return metric.replace("*", "…")
