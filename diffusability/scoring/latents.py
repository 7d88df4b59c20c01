"""Score latents that are in memory, or mapped from a file, in Python or a notebook."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffusability.data.array_files import to_tensor
from diffusability.errors import DataError, DiffusabilityError, MeasurementError
from diffusability.latents.shards import pool_masks
from diffusability.metrics.fisher import measure_fisher
from diffusability.metrics.measurement import Measurement, flagged
from diffusability.metrics.semantics import measure_semantics
from diffusability.metrics.spatial import measure_spatial
from diffusability.metrics.uniformity import measure_uniformity
from diffusability.scoring.measured import Measurements
from diffusability.scoring.request import DEFAULTS, OF_LATENTS
from diffusability.scoring.table import Score
from diffusability.stages.make import load_code
from diffusability.study.fingerprint import derive_seed
from diffusability.study.metric_group import LACKING, UNUSED_MASKS
from diffusability.study.metrics import METRIC_GROUPS, FisherMetric
from diffusability.study.problems import Problems, nearest
from diffusability.tokenizers.stored import check_latents, check_layout

Array = Tensor | np.ndarray[Any, Any]


def score(
    latents: Array,
    labels: Array | None = None,
    masks: Array | None = None,
    *,
    metrics: str | Sequence[str] = OF_LATENTS,
    seed: int = 0,
    name: str = "latents",
    progress: bool | None = None,
    **options: Mapping[str, Any],
) -> Score:
    """Measure latents from every perspective that applies to them.

    Args:
        latents: (N, C, H, W), or tokens (N, L, D), floating-point, in any unit; torch, numpy, or
            memory-mapped.
        labels: (N,) integer classes; None leaves LNC out, and VIV is unconditional.
        masks: (N, h, w) foreground, true or false or its share in [0, 1], at the resolution of the
            images or of the latents; None leaves SRSS out. Tokens have no position: theirs are not
            used, and a flag says so.
        metrics: groups of `OF_LATENTS`, or one.
        seed: of all that is drawn at random; 0 draws what a study draws, so that equal latents and
            options give its numbers. The linear probe and uniformity of a study read more than
            arrays hold: the training set, and draws of the posteriors.
        name: what tables call the latents.
        progress: whether it shows which metric is being measured; None: on a terminal.
        options: of a group, by its name, as in a study: `uniformity={"points": 2000}`; those that
            ask for what arrays do not hold, such as `semantics={"probe": "train"}`, are refused.

    Returns:
        A table in a notebook; `s["velocity.viv"]`, `s.to_frame()`, `s.plot()`. A metric that fails
        is left out with its reason.

    Raises:
        MeasurementError: latents, labels or masks are no numbers or do not fit together, latents
            hold NaN or infinity, a group does not exist, or options are of no group of `metrics`.
    """
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    for group in metrics:
        if group not in METRIC_GROUPS:
            raise MeasurementError(
                f"metrics: there is no group `{group}` ({nearest(group, OF_LATENTS)})"
            )
    for group in options:
        if group not in metrics:
            raise MeasurementError(
                f"options of `{group}`: it is not among the metrics of this score "
                f"({nearest(group, metrics)})"
            )
    given = _Given.of(latents, labels, masks)
    found: list[Mapping[str, Any]] = []
    left_out: dict[str, str] = {}
    if given.foreground is None and "spatial" in metrics:
        left_out["spatial.srss"] = "; ".join(given.flags) or "there are no masks"
    groups = tqdm(
        metrics, desc=f"score of {name}", disable=None if progress is None else not progress
    )
    for group in groups:
        groups.set_postfix_str(group)
        try:
            chosen = {**DEFAULTS.get(group, {}), **options.get(group, {})}
            measured, without = _measure(group, given, seed, chosen)
            found += [m.to_json() for m in measured]
            left_out |= dict(without)
        except DiffusabilityError as error:
            left_out[group] = str(error)
    return Score(name, found, left_out)


def measure(
    group: str,
    latents: Array,
    labels: Array | None = None,
    masks: Array | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Measurements:
    """Measure one group of metrics; arguments are those of `score`.

    Args:
        group: one of `OF_LATENTS`, or one that was added and reads latents alone.
        latents: (N, C, H, W) or (N, L, D). labels: (N,). masks: (N, h, w).
        seed: of all that is drawn at random.
        options: of the group, as in a study.

    Raises:
        MeasurementError: bad input, or the group does not apply to it; the message says why.
    """
    return Measurements(_measure(group, _Given.of(latents, labels, masks), seed, options)[0])


class _Given:
    """Latents (N, C, h, w), labels (N,) and foreground (N, h, w) of one set, checked."""

    def __init__(self, mean: Tensor, labels: Tensor, foreground: Tensor | None, grid: bool) -> None:
        self.mean, self.labels, self.foreground = mean, labels, foreground if grid else None
        self.flags = (UNUSED_MASKS,) if foreground is not None and not grid else ()
        there = {"classes": bool((labels != labels[:1]).any()), "grid": grid}
        self.lacking = [need for need in LACKING if not there.get(need, False)]

    @classmethod
    def of(cls, latents: Array, labels: Array | None, masks: Array | None) -> "_Given":
        """Check arrays, and bring tokens and masks to the form that metrics take.

        Raises:
            MeasurementError: they are no numbers, hold NaN, or do not fit together.
        """
        mean = _tensor(latents, "latents")
        if mean.ndim not in (3, 4) or not mean.is_floating_point():
            raise MeasurementError(
                f"latents of shape {tuple(mean.shape)} and {mean.dtype}: floating-point "
                "(N, C, H, W) or tokens (N, L, D) are expected"
            )
        try:
            if mean.ndim == 4:
                check_layout(mean, "latents")
            check_latents(mean, "latents")
        except DataError as error:
            raise MeasurementError(str(error)) from None
        grid = mean.ndim == 4
        if not grid:
            mean = mean.transpose(1, 2)[..., None]  # (N, D, L, 1)
        classes = _labels(labels, len(mean))
        foreground = None if masks is None else _masks(masks, len(mean))
        if foreground is not None and grid:
            foreground = pool_masks(foreground, mean.shape[-2:])
        return cls(mean, classes, foreground, grid)


def _labels(labels: Array | None, count: int) -> Tensor:
    """Return (N,) int64 labels; all 0 where there are none."""
    if labels is None:
        return torch.zeros(count, dtype=torch.int64)
    classes = _tensor(labels, "labels", "numpy.unique(labels, return_inverse=True)[1] gives some")
    if tuple(classes.shape) != (count,) or classes.is_floating_point():
        raise MeasurementError(
            f"labels of shape {tuple(classes.shape)} and {classes.dtype} for {count} latents: "
            "one integer per latent is expected"
        )
    if len(classes) and int(classes.min()) < 0:
        raise MeasurementError(
            f"label {int(classes.min())} would be a class of its own: leave out latents without a "
            "label, latents[labels >= 0], and number classes from 0"
        )
    return classes.long()


def _masks(masks: Array, count: int) -> Tensor:
    """Return (N, H, W) masks, true or false or shares of foreground."""
    foreground = _tensor(masks, "masks")
    if foreground.ndim != 3 or len(foreground) != count:
        raise MeasurementError(
            f"masks of shape {tuple(foreground.shape)} for {count} latents: (N, h, w) is expected"
        )
    return foreground


def _tensor(values: Array, what: str, remedy: str = "") -> Tensor:
    """Return an array as a tensor.

    Raises:
        MeasurementError: it holds no numbers; with what to do, where that is known.
    """
    if isinstance(values, Tensor):
        return values.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a map that cannot be written is only read
        try:
            return to_tensor(np.asarray(values))
        except ValueError as error:
            raise MeasurementError(f"{what}: {error}{'; ' * bool(remedy)}{remedy}") from None


# measurements, and metrics that do not apply, each with the reason
_Found = tuple[list[Measurement], list[tuple[str, str]]]


def _measure(group: str, given: _Given, seed: int, options: Mapping[str, Any]) -> _Found:
    declared = METRIC_GROUPS[group]
    if not declared.reads and group not in _DIRECT:
        raise MeasurementError(f"{group}: needs images, and is measured by `diffusability score`")
    lacking = [LACKING[need] for need in declared.needs if need in given.lacking]
    if lacking:
        raise MeasurementError("; ".join(lacking))
    _refuse_what_arrays_lack(group, options)
    problems = Problems()
    spec = problems.validate(group, dict(options), declared.options)
    if spec is None:
        raise MeasurementError(f"options of {'; '.join(problems.lines)}")
    drawn = derive_seed(group, seed, declared.generator or _STREAMS.get(group, ""))
    if group in _DIRECT:
        return _DIRECT[group](given, spec, drawn)
    tensors = {"mean": given.mean, "labels": given.labels, "foreground": given.foreground}
    named = {key: getattr(spec, key) for key in type(spec).model_fields if key != "split"}
    if declared.generator:
        named["generator"] = torch.Generator().manual_seed(drawn)
    found = load_code(declared.code)(*(tensors[read] for read in declared.reads), **named)
    flags = given.flags if "foreground" in declared.reads else ()
    listed = found[0] if isinstance(found, tuple) else found
    return flagged(listed, *flags), []


def _refuse_what_arrays_lack(group: str, options: Mapping[str, Any]) -> None:
    """Refuse options of a study that ask for what arrays do not hold.

    Raises:
        MeasurementError: naming the option, and why.
    """
    known = {**_NOT_IN_ARRAYS[""], **_NOT_IN_ARRAYS.get(group, {})}
    for key, (of_arrays, reason) in known.items():
        if options.get(key, of_arrays) != of_arrays:
            raise MeasurementError(f"options of {group}.{key}: {reason}; leave it out")


def _spatial(given: _Given, spec: Any, seed: int) -> _Found:
    return measure_spatial(given.mean, given.foreground)


def _semantics(given: _Given, spec: Any, seed: int) -> _Found:
    found, without = measure_semantics(
        given.mean,
        given.labels,
        given.foreground,
        generator=torch.Generator().manual_seed(seed),
        neighbours=spec.neighbours,
        smallest_class=spec.smallest_class,
    )
    return flagged(found, *given.flags), without


def _uniformity(given: _Given, spec: Any, seed: int) -> _Found:
    named = {key: getattr(spec, key) for key in ("points", "repeats", "perplexity", "iterations")}
    return measure_uniformity(given.mean, seed=seed % 2**31, **named), []


def _fisher(given: _Given, spec: FisherMetric, seed: int) -> _Found:
    found, without = measure_fisher(
        given.mean,
        given.labels,
        None,
        spec.variances,
        blocks=spec.blocks,
        samples=spec.samples,
        smallest_class=spec.smallest_class,
        seed=seed,
    )
    # nobody expects the deviations from pixels that arrays do not hold
    return found, [(name, reason) for name, reason in without if "deviation" not in name]


# options of a study that ask for what arrays do not hold, by group (empty: of every group): the
# value that describes arrays (None: no value does), and why there is no other
_UNSPLIT = "arrays are not split into training and validation images"
_FOLDS, _MODELS = (
    f"{_UNSPLIT}, so the probe is cross-validated",
    "arrays come without diffusion models",
)
_NOT_IN_ARRAYS: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    "": {"split": ("all", _UNSPLIT)},
    "semantics": {"probe": ("folds", _FOLDS), "probe_images": (None, _FOLDS)},
    "uniformity": {
        "posterior": ("mean", "arrays hold one latent per image, and no posterior"),
        "flip": (False, "arrays hold no latents of mirrored images"),
    },
    "fisher": {"learned": (None, _MODELS), "reference": (None, _MODELS)},
}
# names of the random streams, those of the stages: equal seeds draw what a study draws
_STREAMS = {"semantics": "folds", "uniformity": "repeats", "fisher": "mixture"}
_DIRECT: dict[str, Callable[[_Given, Any, int], _Found]] = {
    "semantics": _semantics,
    "spatial": _spatial,
    "uniformity": _uniformity,
    "fisher": _fisher,
}
