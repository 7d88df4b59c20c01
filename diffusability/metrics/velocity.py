"""Velocity: conditional variance of the flow-matching velocity given x_t and t.

Velocity irreducible variance (VIV), Eq. 2-6 of "Diffusing in the Right Space" (arXiv 2606.03578):
one Gaussian per class, its covariance a Kronecker product over channels and positions, fitted by
flip-flop; the reported value is the unweighted mean over classes.
"""

from typing import Any

import torch
from torch import Tensor

from diffusability.metrics.class_velocity import CURVE_TIMES, SCALARS
from diffusability.metrics.kronecker import (
    MAX_ITERATIONS,
    TOLERANCE,
    require_samples,
)
from diffusability.metrics.latent_set import ONE_CLASS, LatentSet, check_labels, classes_of_enough
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.mixture_velocity import KroneckerMixture, between_class_variance
from diffusability.metrics.velocity_fits import GroupFits, fit_groups
from diffusability.statistics import (
    Halves,
    Halving,
    corrected_mean,
    draw_halves,
    error_of_mean,
)
from diffusability.study.metrics.metric_group import SmallestClass
from diffusability.study.preflight.class_sizes import minimum_samples

_DIRECTIONS = {
    "viv": False,
    "viv_mle": False,
    "viv_dct": False,
    "tau": False,  # insight 1: compact classes
    "anisotropy": True,  # insight 2: few strong modes
    "separability": None,
    "spatial_factor": False,
    "channel_factor": False,
}
# of quick standard errors: with 8 halvings they are known to a fourth
_LEAST_HALVINGS, _QUICK_OPERATIONS = 8, 2e11
_ESTIMATORS = {
    "viv": "kronecker, trace-rescaled",
    "viv_mle": "kronecker, maximum likelihood",
    "viv_dct": "dct-diagonal",
}


def measure_velocity(
    latents: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    normalise: bool = True,
    smallest_class: SmallestClass = "refuse",
    unconditional_fallback: bool = False,
    quick: bool = False,
    halvings: int = 128,
    strata: int = 16,
    samples: int = 8,
) -> list[Measurement]:
    """Measure class-conditional and marginal VIV, their parts, and the checks on the model.

    Standard errors are over images. A class is split into random halves, and the squared
    difference of their values estimates the variance of the class's value; the variance of the
    mean over K independent classes is the mean of these divided by K. The effect of an image on
    the z-score is included (``GroupFits.linearised``). The same halves extrapolate the values
    linearly in 1/n (``_corrected``). If a half is too small to fit, the error is the standard
    deviation over classes / sqrt(K), which is conservative, no correction is made, and a flag says
    so.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.
        labels: (N,) integer class numbers, in any order.
        generator: draws the halves and the Monte-Carlo points.
        normalise: z-score each channel over the set, as VIV is defined; VIV is linear in scale.
        smallest_class: whether classes of fewer than ``minimum_samples`` are refused or left out.
        unconditional_fallback: fit one Gaussian to all images where a class has fewer than that.
        quick: halve less often where that would take minutes; see ``quick_halvings``.
        halvings: minimum number of class halvings, spread evenly over all or as many random
            classes.
        strata, samples: strata of t, and points in each, of the marginal VIV.

    Returns:
        ``velocity.viv`` (trace-rescaled, the published estimator), ``viv_mle`` (plain maximum
        likelihood), ``viv_dct`` and their ``_corrected``; ``viv_marginal``; ``tau`` and
        ``anisotropy`` of Eq. 6, per dimension, so VIV_k = (pi/2) sqrt(tau_k - A_k);
        ``separability``, ``spatial_factor``, ``channel_factor``; ``curve_tNN``, I(t) of Eq. 4 at
        t = NN/100. In noise variances; LOWER is better, but HIGHER for anisotropy, and no
        direction for separability.

    Raises:
        MeasurementError: bad input, or a class of too few (``minimum_samples``) or equal images.
    """
    data = LatentSet(latents)
    labels = check_labels(labels, data.count).to(data.device)
    least = minimum_samples(data.channels, data.height * data.width)
    if unconditional_fallback:
        labels, flags = _one_class_if_small(labels, least)
        data.flags = (*data.flags, *flags)
    kept, flags = classes_of_enough(labels, least, smallest_class)
    if flags:
        data, labels = LatentSet(latents[kept], flags), labels[kept]
    names, counts = labels.unique(return_counts=True)  # (K,) each
    positions = data.height * data.width
    require_samples(counts, names, data.channels, positions)
    groups = [torch.nonzero(labels == name).flatten() for name in names]
    mixture = KroneckerMixture.empty(len(groups), data.channels, positions, data.device)
    fits = fit_groups(data, groups, normalise, mixture)
    if quick:
        halvings = quick_halvings(
            halvings, int(counts.sum()), len(groups), data.channels, positions
        )
    halving = None
    if int(counts.min()) // 2 >= minimum_samples(data.channels, positions):
        halving = _fit_halves(data, fits, draw_halves(groups, halvings, generator), normalise)
    summary = _Summary(fits, halving, counts, normalise, data.channels)
    draws = {"strata": strata, "samples": samples}
    between = between_class_variance(mixture, generator=generator, **draws)
    found = [*summary.scalars(), *summary.curve(), summary.marginal(*between, draws)]
    return data.flagged(found)


def quick_halvings(most: int, images: int, classes: int, rows: int, columns: int) -> int:
    """Return the number of halvings, from 8 to `most`, that cost about a minute of a core.

    It follows from the shape of the data alone, so that equal data give equal numbers.

    Args:
        most: without this bound. images, classes: of the set. rows, columns: p and q.
    """
    # floating-point operations of one step of the flip-flop on all images of a class
    step = 4 * rows * columns * (rows + columns) * images / classes
    return max(min(_LEAST_HALVINGS, most), min(most, int(_QUICK_OPERATIONS / step)))


def _one_class_if_small(labels: Tensor, least: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return (N,) labels, all of one class where a class is too small, and a flag that says so."""
    sizes = labels.unique(return_counts=True)[1]  # (K,)
    small = int((sizes < least).sum())
    if not small or len(sizes) == 1:
        return labels, ()
    flag = f"labels are not used: {small} of {len(sizes)} classes have fewer than {least} images"
    return torch.zeros_like(labels), (flag,)


def _fit_halves(data: LatentSet, fits: GroupFits, halves: Halves, normalised: bool) -> Halving:
    """Fit every half, including its effect on the z-score of the whole set."""
    sizes = halves.class_sizes  # (K,)
    weights = (sizes / sizes.mean())[halves.owners].repeat_interleave(2)  # (2 P,)
    half_fits = fit_groups(data, halves.groups, normalised)
    linear = fits.linearised(half_fits, weights)  # (2 P, columns)
    return Halving(halves, half_fits.values.unflatten(0, (-1, 2)), linear.unflatten(0, (-1, 2)))


class _Summary:
    """Turns per-class values into measurements of the space."""

    def __init__(
        self,
        fits: GroupFits,
        halving: Halving | None,
        counts: Tensor,
        normalise: bool,
        channels: int,
    ) -> None:
        self.values, self.halving, self.counts = fits.values, halving, counts
        weights = counts / counts.double().mean()  # (K,)
        self.linear = fits.linearised(fits, weights)  # (K, columns)
        self.images, self.channels = int(counts.sum()), channels
        self.options: dict[str, Any] = {
            "normalise": normalise,
            "classes": counts.numel(),
            "smallest_class": int(counts.min()),
            "tolerance": TOLERANCE,
            "max_iterations": MAX_ITERATIONS,
            "stderr": "between classes" if halving is None else "half-sampling of images",
            "halvings": 0 if halving is None else halving.halves.owners.numel(),
        }
        flags = []
        if fits.unconverged:
            flags.append(f"{fits.unconverged} classes not converged")
        if fits.deficient:
            flags.append(f"rank-deficient covariance factors in {fits.deficient} classes")
        if counts.numel() == 1:
            flags.append(ONE_CLASS)
        if halving is None:
            flags.append("classes too small to halve: no finite-sample correction")
        self.flags = tuple(flags)

    def scalars(self) -> list[Measurement]:
        """Return every scalar, and the corrected form of each VIV."""
        measurements = []
        for column, name in enumerate(SCALARS):
            extra = {"estimator": _ESTIMATORS[name]} if name in _ESTIMATORS else {}
            flags = self.flags
            if name == "viv_dct" and int(self.counts.min()) <= self.channels:
                flags = (*flags, "rank-deficient: a class has no more samples than channels")
            value, stderr = float(self.values[:, column].mean()), self._stderr(column)
            measurements.append(
                self._measurement(name, value, stderr, _DIRECTIONS[name], extra, flags)
            )
            if name in _ESTIMATORS and self.halving is not None:
                value, stderr = corrected_mean(self.values[:, column], self.halving, column)
                extra = extra | {"correction": "half-sampling, linear in 1/n"}
                measurements.append(
                    self._measurement(f"{name}_corrected", value, stderr, False, extra, flags)
                )
        return measurements

    def curve(self) -> list[Measurement]:
        """Return I(t) of Eq. 4 at each time."""
        measurements = []
        for index, time in enumerate(CURVE_TIMES):
            column = len(SCALARS) + index
            name = f"curve_t{round(100 * time):02d}"
            value, stderr = float(self.values[:, column].mean()), self._stderr(column)
            measurements.append(
                self._measurement(name, value, stderr, False, {"t": time}, self.flags)
            )
        return measurements

    def marginal(self, between: float, between_stderr: float, draws: dict[str, int]) -> Measurement:
        """Add the between-class part, whose error is that of the Monte Carlo, to ``viv``."""
        conditional, stderr = float(self.values[:, 0].mean()), self._stderr(0)
        both = None if stderr is None else (stderr**2 + between_stderr**2) ** 0.5
        extra = {"between_class": between, "estimator": _ESTIMATORS["viv"], **draws}
        value = conditional + between
        return self._measurement("viv_marginal", value, both, False, extra, self.flags)

    def _stderr(self, column: int) -> float | None:
        """Return the error of the mean over classes, or None where neither method applies."""
        if self.halving is not None:
            return error_of_mean(self.halving, column, self.counts.numel())
        if self.counts.numel() == 1:
            return None
        return float(self.linear[:, column].std(correction=1)) / self.counts.numel() ** 0.5

    def _measurement(
        self,
        name: str,
        value: float,
        stderr: float | None,
        direction: bool | None,
        extra: dict[str, Any],
        flags: tuple[str, ...],
    ) -> Measurement:
        """Return a measurement with the common options and flags."""
        options = self.options | extra
        return Measurement(
            f"velocity.{name}", value, stderr, self.images, "1", direction, options, flags
        )
