"""How many images every metric needs, and whether a prepared dataset has them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diffusability.errors import StudyError
from diffusability.study.entries.tokenizer import LatentsTokenizer
from diffusability.study.metrics.groups import FisherMetric
from diffusability.study.metrics.metric_group import ClassMetricOptions, MetricOptions
from diffusability.study.metrics.perspectives import (
    ContinuityMetric,
    SemanticsMetric,
    VelocityMetric,
)
from diffusability.study.planning.plan import Plan
from diffusability.study.study import Study

SAFETY = 2  # samples of a Kronecker fit beyond the least number with a unique maximum
LEAST_FISHER = 3  # of a class, so that a part of it can be left out
LEAST_CONTINUITY = 40  # images: two for each of the 20 parts of the jackknife
LEAST_CLASSES = 2  # that neighbours and a linear probe can tell apart
NAMED = 5


def minimum_samples(rows: int, columns: int) -> int:
    """Return the least number of samples for which a Kronecker covariance is trusted.

    With an estimated mean, n > p/q + q/p + 1 guarantees a unique maximum. Near that limit the fit
    is unstable, so two more are required: 12 at 32 x 256, 8 at 64 x 256, 6 at p = q.

    Args:
        rows, columns: p and q, the sizes of the two factors.
    """
    return math.floor(rows / columns + columns / rows + 1) + 1 + SAFETY


def least_per_class(study: Study, options: MetricOptions) -> int:
    """Return the number of images that a metric group needs of every class, 0 for any number."""
    if not isinstance(options, ClassMetricOptions):
        return 0
    if isinstance(options, SemanticsMetric):
        return 2
    if isinstance(options, FisherMetric):
        return LEAST_FISHER
    if isinstance(options, VelocityMetric) and options.unconditional_fallback:
        return 0
    return _least_of_fit(study)


def _least_of_fit(study: Study) -> int:
    """Return the number of images that the Gaussian of a class needs, 0 where it is not known."""
    size = study.dataset.size
    tokenizers = [study.tokenizers[name] for name in study.selected_tokenizers]
    # the grid of latents on disk is known when they are measured
    known = [t for t in tokenizers if not isinstance(t, LatentsTokenizer)]
    return max((minimum_samples(t.channels, (size // t.factor) ** 2) for t in known), default=0)


def lacking(
    study: Study, by_class: Mapping[str, Sequence[int]], groups: Mapping[str, MetricOptions]
) -> Iterator[tuple[str, str]]:
    """Yield name and problem of every metric group that lacks images.

    Args:
        study: whose latents are measured.
        by_class: images of every class, under "train" and "val". A number without any image is no
            class: latents on disk may keep the labels of the set that they are a part of.
        groups: options by name, of the selected metrics or of others.
    """
    totals = [a + b for a, b in zip(by_class["train"], by_class["val"], strict=True)]
    there = [k for k, total in enumerate(totals) if total]
    splits = {**by_class, "all": totals}
    for name, options in groups.items():
        counts, where = splits[options.split], f"metrics.{name}"
        images = LEAST_CONTINUITY if isinstance(options, ContinuityMetric) else 2
        if sum(counts) < images:
            yield (
                name,
                f"needs {images} images, split `{options.split}` has {sum(counts)}; set "
                f"`{where}.split`, or a larger val_fraction of the dataset",
            )
            continue
        classes = sum(count > 0 for count in counts)
        # of images without classes it is left out, see `Study.left_out`
        declared = study.dataset.num_classes >= LEAST_CLASSES
        if isinstance(options, SemanticsMetric) and declared and classes < LEAST_CLASSES:
            yield (
                name,
                f"needs two classes, split `{options.split}` has {classes}; leave this metric out "
                "of `select.metrics`",
            )
            continue
        least = least_per_class(study, options)
        small = [k for k in there if counts[k] < least]
        skips = isinstance(options, ClassMetricOptions) and options.smallest_class == "skip"
        if small and (not skips or len(small) > len(there) - 2):
            few = _counted(counts, small, len(there), options.split)
            can_skip = not skips and len(small) < len(there) - 1
            yield (
                name,
                f"needs {least} images of every class, {few}; "
                f"{_remedies(options.split, where, can_skip)}",
            )


def controls_lacking(
    study: Study, by_class: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, str]]:
    """Yield name and problem of every control that lacks images; see `lacking`."""
    name, counts, least = "generation.controls", by_class["train"], _least_of_fit(study)
    there = [k for k, count in enumerate(counts) if count]
    small = [k for k in there if counts[k] < least]
    if "gaussian" in study.controls and small:
        few = _counted(counts, small, len(there), "train")
        yield (
            name,
            f"`gaussian` needs {least} images of every class, {few}; add images, or leave it out",
        )
    if "posterior" in study.controls and not sum(by_class["val"]):
        yield (
            name,
            "`posterior` needs images of split `val`, which has none; set a larger val_fraction of "
            "the dataset, or leave it out",
        )


def _counted(counts: Sequence[int], small: Sequence[int], classes: int, split: str) -> str:
    """Return how many of some classes are too small in a split, and the first of them."""
    shown = ", ".join(f"{k} has {counts[k]}" for k in small[:NAMED])
    more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
    return f"{len(small)} of {classes} classes have fewer in split `{split}` (class {shown}{more})"


def _remedies(split: str, where: str, can_skip: bool) -> str:
    """Return what can be set so that every class has images enough."""
    settings = [f"`{where}.smallest_class: skip` to leave them out"] if can_skip else []
    if split != "all":
        settings += [f"`{where}.split: all`", "a larger val_fraction of the dataset"]
    if not settings:
        return "add images, or leave this metric out of `select.metrics`"
    return f"set {', '.join(settings[:-1])}{', or ' * (len(settings) > 1)}{settings[-1]}"


def check_classes(study: Study, by_class: Mapping[str, Sequence[int]]) -> None:
    """Refuse a dataset whose classes are too small for what the study measures.

    Raises:
        StudyError: with what every metric group needs, what there is, and what to do.
    """
    problems = [
        *lacking(study, by_class, study.selected_metrics),
        *controls_lacking(study, by_class),
    ]
    if problems:
        listing = "\n".join(f"  metrics.{name}: {problem}" for name, problem in problems)
        raise StudyError(
            f"dataset `{study.select.dataset}`: too few images; aborted before any training\n"
            f"{listing}"
        )


def check_prepared(plan: Plan) -> None:
    """Refuse a study whose dataset is prepared and too small for it; see `check_classes`."""
    for dataset in plan.of_stage("dataset"):
        manifest = Path(dataset.path, "manifest.json")
        counts = json.loads(manifest.read_text()) if manifest.exists() else {}
        if "images_by_class" in counts:  # not in those of an earlier version
            check_classes(plan.study, counts["images_by_class"])
