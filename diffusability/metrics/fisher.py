"""Fisher geometry of latents without training: FI, FIR, MMSE rate, and deviations from pixels.

Source: "Understanding Latent Diffusability via Fisher Geometry" (arXiv 2604.02751). Estimators:
``fisher.sample_estimators``, fitted to posterior means like all latent metrics here.
(`learned_fisher` uses posterior samples, as diffusion training does; they are smoother where
posteriors are wide.) Every number is per dimension and multiplied by v, v^2 or 1, so it does not
grow with the dimension (k empty directions add k/v to a raw FI). v FI / n lies in [0, 1];
v^2 FIR / n and the rate are >= 0, and <= 1 where the density is log-concave, as a Gaussian's: then
Cov(x|y) <= v. Two atoms exceed it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.fisher.deviation import DEVIATIONS
from diffusability.fisher.information import check_variances, log_weights
from diffusability.metrics.fisher_curves import Curves, PixelCurves, curve_deviations, shares
from diffusability.metrics.latent_set import ONE_CLASS, LatentSet, check_labels, classes_of_enough
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.sample_fisher import (
    ESTIMATORS,
    LEAST_OVERLAP,
    LOOSE,
    SMALL,
    ZSCORED,
    Sample,
)
from diffusability.statistics import delete_block_stderr
from diffusability.study.metrics.groups import FisherMetric
from diffusability.study.metrics.metric_group import SmallestClass
from diffusability.study.preflight.class_sizes import LEAST_FISHER

# power of v in the pure number, and direction; FI claims none, because it falls both with
# compact classes and with noise-like latents
QUANTITIES: dict[str, tuple[int, bool | None]] = {
    "fi": (1, None),
    "fir": (2, False),
    "mmse_rate": (0, False),
}
VARIANCES: tuple[float, ...] = FisherMetric.model_fields["variances"].default
_CURVES_OF = ("", "_unconditional")  # estimators whose deviations are reported at every v
_SIGNIFICANT = 3.0  # standard errors below a bound at which the bound counts as violated
_BLOCKS, _SAMPLES = 10, 128


def measure_fisher(
    latents: Tensor,
    labels: Tensor | None = None,
    pixels: PixelCurves | None = None,
    v: Sequence[float] = VARIANCES,
    *,
    seed: int = 0,
    blocks: int = _BLOCKS,
    samples: int = _SAMPLES,
    smallest_class: SmallestClass = "refuse",
) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Measure FI, FIR and MMSE rate of latents, and their deviation from pixel space.

    Standard errors are jackknives over blocks of images, the same blocks for pixels and latents,
    and over blocks of Monte-Carlo draws.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.
        labels: (N,) integer class numbers; None: all images are one class. The estimates per class
            are then unconditional, and flagged.
        pixels: ``pixel_curves`` of the images of these latents, at the same v and blocks; None
            leaves the deviations from pixel space out.
        v: increasing noise variances, relative to the mean variance of an entry.
        seed: of all random draws; that of ``pixels`` where they are given.
        blocks: blocks of images of the jackknife.
        samples: Monte-Carlo points of the mixture.
        smallest_class: whether classes of fewer than 3 images are refused or left out; as for the
            pixels.

    Returns:
        Measurements, and (metric, reason) for metrics that do not apply. ``fisher.fi`` (no
        direction), ``fisher.fir`` and ``fisher.mmse_rate`` (LOWER is better) are means over log v
        of v FI / n, v^2 FIR / n and rate / n. Endings name the estimator: none for a Gaussian per
        class, ``_unconditional`` for the mixture of the classes, ``_gaussian`` for one Gaussian and
        ``_empirical`` for the smoothed empirical measure. All use latents scaled by one number,
        so that permutations, rotations and isometric embeddings change nothing; names ending in
        ``_zscored`` z-score each channel by itself, as diffusion models see them.

        Deviations from pixel space (LOWER is nearer; see ``curve_deviations``) are
        ``fisher.fi_deviation``, ``fisher.fir_deviation_relative``, ``_scaled``,
        ``_per_dimension`` and ``fisher.mmse_rate_deviation``, with the same endings, for latents of
        the same total variance as the images; with ``_raw`` at the end for latents as they are.
        Those of the empirical measure are means over the v at which it is trusted in both spaces.
        ``fisher.curve_<name>_v<v>`` are values at one v. Flags mark values that are not reliable.

    Raises:
        MeasurementError: bad input, or pixel curves of other images or v.
    """
    check_variances(v)
    data = LatentSet(latents)
    labels = torch.zeros(data.count, dtype=torch.int64) if labels is None else labels
    labels = check_labels(labels, data.count).cpu()
    kept, flags = classes_of_enough(labels, LEAST_FISHER, smallest_class)
    if flags:
        data, labels = LatentSet(latents[kept.to(latents.device)], flags), labels[kept]
    _require_classes(labels)
    sample = Sample(
        data.latents,
        torch.arange(data.count),
        labels,
        blocks=blocks,
        samples=samples,
        seed=seed if pixels is None else pixels.seed,
    )
    if pixels is not None and (pixels.v != tuple(v) or not torch.equal(pixels.sizes, sample.sizes)):
        raise MeasurementError(
            f"{data.count} latents at {len(v)} noise variances in {len(sample.sizes)} blocks: the "
            "curves of pixel space are of other images, variances or blocks; make them again"
        )
    level = torch.tensor(v, dtype=torch.float64)
    own = sample.curves(sample.variance[:, None] / sample.dim * level)
    zscored = sample.zscored_curves(level)
    one_class = not bool((labels != labels[0]).any())
    writer = _Writer(tuple(v), sample.sizes, data.count, sample.dim, one_class)
    found = [*writer.quantities(own, ""), *writer.quantities(zscored, "_zscored")]
    without = [] if "_unconditional" in own.gains else _no_overlap(pixels is not None)
    if pixels is None:
        reason = "there are no images to compare with"
        names = [f"fisher.{name}{ending}" for name in DEVIATIONS for ending in ESTIMATORS]
        return data.flagged(found), [*without, *((name, reason) for name in names)]
    matched = sample.curves(sample.variance[:, None] / pixels.dim * level)
    raw = sample.curves(
        (pixels.variance / pixels.dim * level).expand(len(sample.variance), -1), ZSCORED
    )
    for latent, pixel, scale in (
        (matched, pixels.scaled, ""),
        (raw, pixels.scaled, "_raw"),
        (zscored, pixels.zscored, "_zscored"),
    ):
        found += writer.deviations(latent, pixel, pixels.dim, scale)
    measured = {m.metric for m in found}
    names = [f"fisher.{name}_empirical" for name in DEVIATIONS]
    reason = "the images are too few for the empirical measure at every noise variance"
    without += [(name, reason) for name in names if name not in measured]
    return data.flagged(found), without


def _no_overlap(pixels: bool) -> list[tuple[str, str]]:
    """Return the metrics of a mixture of too many classes, with the reason."""
    reason = (
        f"fewer than {LEAST_OVERLAP} of the compared images are of one class: the errors of their "
        "means would be taken for differences of the classes"
    )
    names = [*QUANTITIES, *(DEVIATIONS if pixels else ())]
    return [(f"fisher.{name}_unconditional", reason) for name in names]


def _require_classes(labels: Tensor) -> None:
    smallest = int(labels.unique(return_counts=True)[1].min())
    if smallest < LEAST_FISHER:
        raise MeasurementError(
            f"a class of {smallest} images is too small to leave a part of it out; give at least "
            f"{LEAST_FISHER} images per class, or leave such classes out with smallest_class: skip"
        )


@dataclass(frozen=True)
class _Writer:
    """Turns curves into measurements; R = 1 + B replicates, as in ``sample_fisher``.

    Attributes:
        v: noise variances. sizes: (B,) images of each block. count: images. dim: n.
        one_class: whether all images are of one class.
    """

    v: tuple[float, ...]
    sizes: Tensor
    count: int
    dim: int
    one_class: bool

    def quantities(self, curves: Curves, scale: str) -> list[Measurement]:
        """Return FI, FIR and MMSE rate by every estimator, as means and at every v."""
        found = []
        for ending, gains in curves.gains.items():
            values = shares(gains, self.dim)  # (R, V, 3)
            flags = self._flags(ending, curves)
            if "_gaussian" in curves.gains and ending in _CURVES_OF:
                bound = shares(curves.gains["_gaussian"], self.dim)[0]
                flags |= dict.fromkeys(self._misfits(values, bound), self.v)
            more = self._bounds(curves) if ending == "_empirical" else [{}] * len(self.v)
            options = self._options(ending, scale)
            found += self._curve(values, list(QUANTITIES), ending + scale, options, flags, more)
            found += self._means(values, list(QUANTITIES), ending + scale, options, flags)
        return found

    def deviations(
        self, latent: Curves, pixel: Curves, pixel_dim: int, scale: str
    ) -> list[Measurement]:
        """Return the deviations from pixel space by every estimator that both have."""
        found = []
        for ending, gains in latent.gains.items():
            gaps = curve_deviations(
                shares(pixel.gains[ending], pixel_dim),
                shares(gains, self.dim),
                pixel_dim,
                self.dim,
            )
            flags = self._flags(ending, latent) | self._flags(ending, pixel)
            options = self._options(ending, scale)
            if not scale and ending in _CURVES_OF:
                found += self._curve(gaps, DEVIATIONS, ending, options, flags)
            if ending != "_empirical":
                found += self._means(gaps, DEVIATIONS, ending + scale, options, flags)
                continue
            # both measures are of atoms at small v, and then agree whatever the spaces are
            trusted = ~(latent.doubtful[ending] | pixel.doubtful[ending])
            if bool(trusted.any()):
                v = tuple(
                    x for x, is_trusted in zip(self.v, trusted.tolist(), strict=True) if is_trusted
                )
                writer = replace(self, v=v)
                found += writer._means(gaps[:, trusted], DEVIATIONS, ending + scale, options, {})
        return found

    def _flags(self, ending: str, curves: Curves) -> dict[str, tuple[float, ...]]:
        """Return flags, with the noise variances that they are about."""
        bad = zip(self.v, curves.doubtful[ending].tolist(), strict=True)
        doubtful = tuple(v for v, is_bad in bad if is_bad)
        text = LOOSE if ending == "_empirical" else SMALL
        flags = {text.format(f"{doubtful[-1]:g}"): doubtful} if doubtful else {}
        return flags | ({ONE_CLASS: self.v} if self.one_class and not ending else {})

    def _misfits(self, values: Tensor, bound: Tensor) -> list[str]:
        """Return flags of FI or FIR below those of the Gaussian with the same covariance."""
        found = []
        for column, name in enumerate(("FI", "FIR")):
            for i, least in enumerate(bound[:, column].tolist()):
                value, error = self._estimate(values, i, column)
                if least - value > _SIGNIFICANT * (error or 0.0) + 1e-6:
                    found.append(f"misfit: {name} below the Gaussian bound")
                    break
        return found

    def _bounds(self, curves: Curves) -> list[Mapping[str, object]]:
        """Return the bounds of v FI / n at every v, as options."""
        assert curves.bounds is not None
        ends = 1 - curves.bounds / self.dim
        return [{"fi_at_least": low, "fi_at_most": high} for high, low in ends.tolist()]

    def _options(self, ending: str, scale: str) -> dict[str, object]:
        reading = scale.removeprefix("_") or "one scale"
        return {"estimator": ESTIMATORS[ending], "scale": reading, "dim": self.dim}

    def _curve(
        self,
        values: Tensor,
        names: Sequence[str],
        ending: str,
        options: Mapping[str, object],
        flags: Mapping[str, Sequence[float]],
        more: Sequence[Mapping[str, object]] | None = None,
    ) -> list[Measurement]:
        """Return (R, V, Q) values of Q names at every v.

        Args:
            ending: of the metrics: estimator and scale.
            flags: with the noise variances that they are about.
            more: further options at each v.
        """
        found = []
        for j, name in enumerate(names):
            power, better = QUANTITIES.get(name, (None, False))
            for i, level in enumerate(self.v):
                value, error = self._estimate(values, i, j)
                at: dict[str, object] = {"v": level, **(more[i] if more else {})}
                if power is not None:
                    at["total"] = value * self.dim / level**power
                metric = f"fisher.curve_{name}{ending}_v{level:g}"
                marks = [flag for flag, levels in flags.items() if level in levels]
                found.append(self._row(metric, value, error, better, {**options, **at}, marks))
        return found

    def _means(
        self,
        values: Tensor,
        names: Sequence[str],
        ending: str,
        options: Mapping[str, object],
        flags: Mapping[str, Sequence[float]],
    ) -> list[Measurement]:
        """Return the means over log v of (R, V, Q) values of Q names; see ``_curve``."""
        weights = torch.tensor(log_weights(self.v), dtype=torch.float64)
        means = (values * weights[:, None]).sum(dim=1, keepdim=True)  # (R, 1, Q)
        reading = {"v": list(self.v), "reading": "mean over log v"}
        found = []
        for j, name in enumerate(names):
            _, better = QUANTITIES.get(name, (None, False))
            value, error = self._estimate(means, 0, j)
            metric = f"fisher.{name}{ending}"
            found.append(
                self._row(metric, value, error, better, {**options, **reading}, list(flags))
            )
        return found

    def _row(
        self,
        metric: str,
        value: float,
        error: float | None,
        better: bool | None,
        options: dict[str, object],
        flags: Sequence[str],
    ) -> Measurement:
        return Measurement(metric, value, error, self.count, "1", better, options, tuple(flags))

    def _estimate(self, values: Tensor, level: int, column: int) -> tuple[float, float | None]:
        own = values[:, level, column]  # (R,)
        value = float(own[0])
        if len(own) < 3:
            return value, None
        return value, delete_block_stderr(value, own[1:], self.sizes)
