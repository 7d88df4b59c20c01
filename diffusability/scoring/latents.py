"""Score latents that are in memory, or mapped from a file, in Python or a notebook."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffusability.data.array_files import as_labels, to_tensor
from diffusability.errors import DataError, DiffusabilityError, MeasurementError
from diffusability.latents.shards import pool_masks
from diffusability.lazy import load_code
from diffusability.scoring.measured import Measurements
from diffusability.scoring.request import DEFAULTS, OF_LATENTS
from diffusability.scoring.table import Score, is_shown
from diffusability.stages.measurements import Found
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.core.problems import Problems, nearest
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.metrics.metric_group import LACKING, UNUSED_MASKS
from diffusability.study.planning.stages import STAGES
from diffusability.tokenizers.posterior import LOGVAR_RANGE
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
    for group, given in options.items():
        if not isinstance(given, Mapping):
            raise MeasurementError(f"options of {group}: a mapping is expected, not {given!r}")
        if group not in metrics:
            raise MeasurementError(
                f"options of `{group}`: it is not among the metrics of this score "
                f"({nearest(group, metrics)})"
            )
    specs = {g: _options(g, {**DEFAULTS.get(g, {}), **options.get(g, {})}) for g in metrics}
    arrays = _Given.of(latents, labels, masks)
    found: list[Mapping[str, Any]] = []
    left_out: dict[str, str] = {}
    if arrays.foreground is None and "spatial" in metrics:
        left_out["spatial.srss"] = "; ".join(arrays.flags) or "there are no masks"
    groups = tqdm(
        metrics, desc=f"score of {name}", disable=None if progress is None else not progress
    )
    for group in groups:
        groups.set_postfix_str(group)
        try:
            measured, without = _measure(group, arrays, seed, specs[group])
            found += [m.to_json() for m in measured]
            left_out = {name: reason for name, reason in without if is_shown(name)} | left_out
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
    spec = _options(group, options)
    return Measurements(_measure(group, _Given.of(latents, labels, masks), seed, spec)[0])


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
    try:
        return as_labels(classes, count, "labels")
    except DataError as error:
        raise MeasurementError(str(error)) from None


def _masks(masks: Array, count: int) -> Tensor:
    """Return (N, H, W) masks, true or false or shares of foreground."""
    foreground = _tensor(masks, "masks")
    if foreground.ndim != 3 or len(foreground) != count or not foreground[:1].numel():
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


class _ArrayInputs:
    """What the stages of metrics read, from arrays: one latent per image, none held out."""

    encodes = False

    def __init__(self, given: _Given, group: str, seed: int) -> None:
        """Take checked arrays, the group that is measured, and the seed of all that is drawn."""
        self.stage, self._seed, self._flags = group, seed, given.flags
        least = torch.full((1,), LOGVAR_RANGE[0]).expand(given.mean.shape)  # of no posterior
        self.latents = SimpleNamespace(
            mean=given.mean,
            logvar=least,
            labels=given.labels,
            foreground=given.foreground,
            mirrored=None,
        )
        self.data = SimpleNamespace(
            masked=given.foreground is not None,
            undecided=None,
            validation=torch.zeros(len(given.mean), dtype=torch.bool),
            split=lambda name: slice(None) if name == "all" else torch.arange(0),
        )

    def __contains__(self, role: str) -> bool:
        return False

    def foreground(self, chosen: object) -> tuple[Tensor | None, tuple[str, ...]]:
        return self.latents.foreground, self._flags

    def rounding(self, chosen: object) -> tuple[str, ...]:
        return ()

    def stream(self, use: str) -> int:
        return derive_seed(self.stage, self._seed, use)

    def generator(self, use: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.stream(use))


def _options(group: str, options: Mapping[str, Any]) -> Any:
    """Return the options of a group, as a study would have them for all of its images.

    Raises:
        MeasurementError: they are not valid, or ask for what arrays do not hold.
    """
    _refuse_what_arrays_lack(group, options)
    problems = Problems()
    spec = problems.validate(group, dict(options), METRIC_GROUPS[group].options)
    if spec is None:
        raise MeasurementError(f"options of {'; '.join(problems.lines)}")
    return spec.model_copy(update={"split": "all"})


def _measure(group: str, given: _Given, seed: int, spec: Any) -> Found:
    """Return what the code of the group's stage measures, and what is not applicable."""
    declared = METRIC_GROUPS[group]
    if {"images", "network", "decoder"} & set(declared.needs):
        raise MeasurementError(f"{group}: needs images; name it under `metrics` of a study")
    lacking = [LACKING[need] for need in declared.needs if need in given.lacking]
    if lacking:
        raise MeasurementError("; ".join(lacking))
    found, without = load_code(STAGES[group].code)(_ArrayInputs(given, group, seed), spec, Path())
    return found, [(name, why) for name, why in without if not _of_pixels(name)]


def _of_pixels(metric: str) -> bool:
    """Return whether a metric is a deviation from pixels, which nobody expects of arrays."""
    return metric.startswith("fisher.") and "deviation" in metric


def _refuse_what_arrays_lack(group: str, options: Mapping[str, Any]) -> None:
    """Refuse options of a study that ask for what arrays do not hold.

    Raises:
        MeasurementError: naming the option, and why.
    """
    known = {**_NOT_IN_ARRAYS[""], **_NOT_IN_ARRAYS.get(group, {})}
    for key, (of_arrays, reason) in known.items():
        if options.get(key, of_arrays) != of_arrays:
            raise MeasurementError(f"options of {group}.{key}: {reason}; leave it out")


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
