"""Fisher geometry of latents without training: FI, FIR and MMSE rate of Gaussian and mixture fits.

Source: "Understanding Latent Diffusability via Fisher Geometry" (arXiv 2604.02751). The fits are
those of VIV: one Kronecker covariance per class, and the mixture of the classes, fitted to
posterior means like all latent metrics here. (`learned_fisher` uses posterior samples, as diffusion
training does; they are smoother where posteriors are wide.) Deviations from pixel space use the
stationary fit, which exists for pixels and latents alike. Latents are z-scored per channel, as a
diffusion model sees them. Every number is per dimension and multiplied by v, v^2 or 1, so it is in
[0, 1] and independent of the dimension (k empty directions add k/v to a raw FI).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.fisher.deviation import DEVIATIONS
from diffusability.fisher.gaussian import gaussian_curve
from diffusability.fisher.information import check_variances, log_weights
from diffusability.metrics.class_velocity import kronecker_eigenvalues
from diffusability.metrics.latent_set import LatentSet, check_labels, classes_of_enough
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.mixture_fisher import overlap_samples
from diffusability.metrics.mixture_velocity import KroneckerMixture
from diffusability.metrics.stationary_fisher import (
    StationaryCurves,
    curve_deviations,
    interleaved_blocks,
    stationary_curves,
)
from diffusability.metrics.velocity_fits import GroupFits, fit_groups
from diffusability.statistics import delete_block_stderr
from diffusability.study.class_sizes import LEAST_STATIONARY, minimum_samples
from diffusability.study.metric_group import SmallestClass

# power of v in the pure number, and direction; FI claims none, because it falls both with
# compact classes and with noise-like latents
QUANTITIES: dict[str, tuple[int, bool | None]] = {
    "fi": (1, None),
    "fir": (2, False),
    "mmse_rate": (0, False),
}
CONDITIONS = ("", "_unconditional")
_SIGNIFICANT = 3.0  # standard errors below a bound at which the bound counts as violated


def measure_fisher(
    latents: Tensor,
    labels: Tensor,
    pixels: StationaryCurves | None,
    v: Sequence[float],
    *,
    generator: torch.Generator,
    blocks: int = 10,
    samples: int = 128,
    smallest_class: SmallestClass = "refuse",
) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Measure FI, FIR and MMSE rate of fits to latents, and their deviation from pixel space.

    Standard errors are jackknives over blocks of images, the same blocks for pixels and latents;
    for a mixture the Monte-Carlo error is added.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.
        labels: (N,) integer class numbers.
        pixels: ``stationary_curves`` of the images of these latents, at the same v and blocks; None
            leaves the deviations from pixel space out.
        v: increasing noise variances, in units of the z-scored latents' variance.
        generator: draws the Monte-Carlo points of the mixture.
        blocks: blocks of images of the jackknife.
        samples: Monte-Carlo points of the mixture.
        smallest_class: whether classes of fewer than 3 images are refused or left out; as for the
            pixels.

    Returns:
        Measurements, and (metric, reason) for metrics that do not apply. Class-conditional, and
        with the suffix ``_unconditional`` for the mixture: ``fisher.fi`` (no direction),
        ``fisher.fir`` and ``fisher.mmse_rate`` (LOWER is better), the means over log v of
        v FI / n, v^2 FIR / n and rate / n. The same for stationary fits, class-conditional
        and of one Gaussian, end in ``_dct``; their deviations from pixel space are
        ``fisher.fi_deviation``, ``fisher.fir_deviation_relative``, ``_scaled`` and
        ``_per_dimension``, ``fisher.mmse_rate_deviation`` (LOWER is better; see
        ``curve_deviations``). Each is also given at every v as
        ``fisher.curve_<name>_v<v>``. Flags mark values that are not reliable.

    Raises:
        MeasurementError: bad input, or pixel curves of other images or v.
    """
    check_variances(v)
    data = LatentSet(latents)
    labels = check_labels(labels, data.count).cpu()
    kept, flags = classes_of_enough(labels, LEAST_STATIONARY, smallest_class)
    if flags:
        data, labels = LatentSet(latents[kept.to(latents.device)], flags), labels[kept]
    latents = data.latents
    stationary = stationary_curves(latents, torch.arange(data.count), labels, v=v, blocks=blocks)
    if pixels is not None and (
        pixels.conditional.shape != stationary.conditional.shape
        or not torch.equal(pixels.sizes, stationary.sizes)
    ):
        raise MeasurementError(
            f"{data.count} latents at {len(v)} noise variances in {blocks} blocks: the curves of "
            "pixel space are of other images, variances or blocks; make them again"
        )
    writer = _Writer(v, stationary.sizes, data.count, stationary.dim)
    found: list[Measurement] = []
    without: list[tuple[str, str]] = []
    for condition, kind in zip(CONDITIONS, ("conditional", "unconditional"), strict=True):
        own = getattr(stationary, kind)
        fit = _Fit(own, "stationary", stationary.flags)
        found += writer.curves(list(QUANTITIES), f"{condition}_dct", fit)
        found += writer.means(list(QUANTITIES), f"{condition}_dct", fit)
        if pixels is None:
            reason = "there are no images to compare with"
            without += [(f"fisher.{name}{condition}", reason) for name in DEVIATIONS]
            continue
        of_pixels = getattr(pixels, kind)
        gaps = curve_deviations(of_pixels, own, pixels.dim, stationary.dim)  # (1 + B, V, 5)
        flags = tuple(dict.fromkeys((*stationary.flags, *pixels.flags)))
        fit = _Fit(gaps, "stationary, latents and pixels", flags)
        found += writer.curves(DEVIATIONS, condition, fit)
        found += writer.means(DEVIATIONS, condition, fit)
    conditional = _kronecker(latents, labels, v, len(stationary.sizes))
    if isinstance(conditional, str):
        names = [f"fisher.{name}{c}" for c in CONDITIONS for name in QUANTITIES]
        return data.flagged(found), [*without, *((name, conditional) for name in names)]
    mixture, fit = conditional
    overlap = overlap_samples(mixture, v, samples=samples, generator=generator)
    bound = stationary.unconditional[0]
    for condition, own_fit in (
        ("", fit),
        ("_unconditional", _Fit(fit.values, "mixture of kronecker", fit.flags, overlap)),
    ):
        own_fit = writer.checked(own_fit, bound)
        found += writer.curves(list(QUANTITIES), condition, own_fit)
        found += writer.means(list(QUANTITIES), condition, own_fit)
    return data.flagged(found), without


@dataclass(frozen=True)
class _Fit:
    """Curves of one fit.

    Attributes:
        values: (1 + B, V, Q), of all images and then without each block; or (1, V, Q).
        estimator: what was fitted.
        flags: flags of its measurements.
        more: (M, V, Q) independent draws whose mean is added to the values; or None.
    """

    values: Tensor
    estimator: str
    flags: tuple[str, ...]
    more: Tensor | None = None

    def weighted(self, weights: Tensor) -> "_Fit":
        """Return the (..., 1, Q) means over v."""
        more = None if self.more is None else _mean(self.more, weights)
        return _Fit(_mean(self.values, weights), self.estimator, self.flags, more)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights[:, None]).sum(dim=1, keepdim=True)


def _kronecker(
    latents: Tensor, labels: Tensor, v: Sequence[float], blocks: int
) -> tuple[KroneckerMixture, _Fit] | str:
    """Return the mixture of the classes with their mean curve, or the reason why it has no fit."""
    least = minimum_samples(latents.shape[1], latents.shape[2] * latents.shape[3])
    smallest = int(labels.unique(return_counts=True)[1].min())
    if smallest < least:
        return (
            f"a class of {smallest} images has no Kronecker fit; it needs {least} images per class"
        )
    fits, mixture, whole = _fit_classes(latents, labels, v)
    flags = []
    if fits.unconverged:
        flags.append(f"{fits.unconverged} classes not converged")
    if fits.deficient:
        flags.append(f"rank-deficient covariance factors in {fits.deficient} classes")
    block = interleaved_blocks(labels, blocks)
    counts = [labels[block != b].unique(return_counts=True)[1].min() for b in range(blocks)]
    if min(map(int, counts)) < least:
        flags.append("classes too small to leave images out: no standard error")
        return mixture, _Fit(whole[None], "kronecker", tuple(flags))
    left = [_fit_classes(latents[block != b], labels[block != b], v)[2] for b in range(blocks)]
    return mixture, _Fit(torch.stack([whole, *left]), "kronecker", tuple(flags))


def _fit_classes(
    latents: Tensor, labels: Tensor, v: Sequence[float]
) -> tuple[GroupFits, KroneckerMixture, Tensor]:
    """Return the fits of all classes, their mixture, and (V, 3) the mean of their curves."""
    data = LatentSet(latents)
    groups = [torch.nonzero(labels == name).flatten() for name in labels.unique()]
    positions = data.height * data.width
    mixture = KroneckerMixture.empty(len(groups), data.channels, positions, data.device)
    fits = fit_groups(data, groups, True, mixture)
    pairs = zip(mixture.row_values, mixture.column_values, strict=True)
    curves = [gaussian_curve(kronecker_eigenvalues(a, b), v) for a, b in pairs]
    return fits, mixture, torch.stack(curves).mean(dim=0).cpu()


@dataclass(frozen=True)
class _Writer:
    """Turns curves into measurements.

    Attributes:
        v: (V,) noise variances. sizes: (B,) images of each block. count: images. dim: n.
    """

    v: Sequence[float]
    sizes: Tensor
    count: int
    dim: int

    def checked(self, fit: _Fit, bound: Tensor) -> _Fit:
        """Flag FI or FIR below those of the Gaussian with the variances of the latents.

        Args:
            fit: of the latents.
            bound: (V, 3) of that Gaussian; a lower bound of FI and FIR for any distribution.
        """
        below = set()
        for i, _ in enumerate(self.v):
            for j, name in enumerate(("FI", "FIR")):
                value, error = self._estimate(fit, i, j)
                if float(bound[i, j]) - value > _SIGNIFICANT * (error or 0.0) + 1e-6:
                    below.add(f"misfit: {name} below the Gaussian bound")
        return _Fit(fit.values, fit.estimator, (*fit.flags, *sorted(below)), fit.more)

    def curves(self, names: Sequence[str], ending: str, fit: _Fit) -> list[Measurement]:
        """Return every metric at every v, with the totals of FI, FIR and the rate as options."""
        found = []
        for i, level in enumerate(self.v):
            for j, name in enumerate(names):
                power = QUANTITIES[name][0] if name in QUANTITIES else None
                value, error = self._estimate(fit, i, j)
                options: dict[str, object] = {"v": level, "estimator": fit.estimator}
                if power is not None:
                    options |= {"dim": self.dim, "total": value * self.dim / level**power}
                at = f"fisher.curve_{name}{ending}_v{level:g}"
                found.append(self._measurement(at, name, value, error, options, fit.flags))
        return found

    def means(self, names: Sequence[str], ending: str, fit: _Fit) -> list[Measurement]:
        """Return the mean of every metric over log v."""
        mean = fit.weighted(torch.tensor(log_weights(self.v), dtype=torch.float64))
        options: dict[str, object] = {
            "v": list(self.v),
            "estimator": fit.estimator,
            "reading": "mean over log v",
            "dim": self.dim,
            "samples": 0 if fit.more is None else len(fit.more),
        }
        return [
            self._measurement(
                f"fisher.{name}{ending}", name, *self._estimate(mean, 0, j), options, fit.flags
            )
            for j, name in enumerate(names)
        ]

    def _measurement(
        self,
        metric: str,
        name: str,
        value: float,
        error: float | None,
        options: dict[str, object],
        flags: tuple[str, ...],
    ) -> Measurement:
        better = QUANTITIES[name][1] if name in QUANTITIES else False
        return Measurement(metric, value, error, self.count, "1", better, options, flags)

    def _estimate(self, fit: _Fit, level: int, column: int) -> tuple[float, float | None]:
        values = fit.values[:, level, column]  # (1 + B,)
        value, error = float(values[0]), None
        if len(values) > 1:
            error = delete_block_stderr(value, values[1:], self.sizes)
        if fit.more is None:
            return value, error
        more = fit.more[:, level, column]  # (M,)
        monte_carlo = float(more.std()) / len(more) ** 0.5
        both = None if error is None else (error**2 + monte_carlo**2) ** 0.5
        return value + float(more.mean()), both
