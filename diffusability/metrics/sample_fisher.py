"""Fisher curves of a set of images or latents by every estimator that needs no network.

The estimators (``fisher.sample_estimators``) see distances between data alone. What is read from
them depends on the scale: of the data as they are ("raw"), of the data times one number, or of
channels z-scored one by one, which no rotation commutes with.

Standard errors are jackknives. So most tensors have a first axis of R = 1 + B replicates: of all
images (or Monte-Carlo draws), then without each of B blocks of them.
"""

from collections.abc import Sequence
from functools import cached_property, reduce

import torch
from torch import Tensor

from diffusability.data.images import Rows, to_float
from diffusability.errors import MeasurementError
from diffusability.fisher.sample_estimators import (
    ClassGaussians,
    empirical_gains,
    gaussian_gains,
    principal_coordinates,
    sample_spectra,
)
from diffusability.latents.channel_statistics import (
    ChannelStatistics,
    channel_statistics,
    normalise,
)
from diffusability.metrics.fisher_curves import Curves, PixelCurves
from diffusability.metrics.strata import in_proportion, interleaved_blocks
from diffusability.statistics import Moments

# ending of a metric: what is fitted
ESTIMATORS = {
    "": "gaussian per class",
    "_unconditional": "mixture of the classes",
    "_gaussian": "one gaussian",
    "_empirical": "smoothed empirical measure",
}
ZSCORED = ("", "_unconditional")  # also fitted to channels z-scored one by one
IMAGES = 2048  # at most, of each class in proportion, where every pair of images is compared
_EMPIRICAL_IMAGES = 1024
_NOISY_POINTS = 128  # at which the empirical measure is evaluated
# compared images of every class, from which on their means tell how far classes overlap: the error
# of the means is taken for a difference, which lowers v FI / n at v = 1 by about .25 / images
LEAST_OVERLAP = 10
_DIRECTIONS = 128  # leading ones, in which classes overlap
_FEW_DIRECTIONS = 8  # in which errors of the classes alone and of their overlap cancel
_WIDE = 0.1  # of v FI / n, between the bounds of the empirical measure
SMALL, LOOSE = "data-limited: a bound at v <= {}", "loose: bounds of v FI / n differ at v <= {}"


def tells_overlap(labels: Tensor) -> bool:
    """Return whether compared images of (N,) labels tell how far their classes overlap."""
    counts = labels.unique(return_counts=True)[1]
    return len(counts) == 1 or int(counts.min()) >= LEAST_OVERLAP


def pixel_curves(
    images: Rows,
    chosen: Tensor,
    labels: Tensor,
    *,
    v: Sequence[float],
    blocks: int,
    samples: int,
    seed: int,
) -> PixelCurves:
    """Return the Fisher curves of images.

    Args:
        images: rows (C, H, W), uint8 or floating.
        chosen: (n,) int64 rows. labels: (n,) int64 their classes, of at least 3 images each.
        v: noise variances. blocks, samples, seed: see ``Sample``.

    Raises:
        MeasurementError: all images are equal.
    """
    sample = Sample(images, chosen, labels, blocks=blocks, samples=samples, seed=seed)
    level = torch.tensor(v, dtype=torch.float64)
    return PixelCurves(
        dim=sample.dim,
        variance=float(sample.variance[0]),
        sizes=sample.sizes,
        v=tuple(v),
        seed=sample.seed,
        scaled=sample.curves(sample.variance[:, None] / sample.dim * level),
        zscored=sample.zscored_curves(level),
    )


class Sample:
    """A labelled set of images or latents, of which every estimator takes what it needs.

    Args:
        images: rows (C, H, W), uint8 or floating.
        chosen: (N,) int64 rows. labels: (N,) int64 classes.
        blocks: largest number of blocks of images of the jackknife.
        samples: Monte-Carlo points of the mixture.
        seed: of all random draws.
        statistics: channels are z-scored with these.

    Attributes:
        dim: n. sizes: (B,) images of each block.
        variance: (R,) E|x - E x|^2.

    Raises:
        MeasurementError: all images are equal.
    """

    def __init__(
        self,
        images: Rows,
        chosen: Tensor,
        labels: Tensor,
        *,
        blocks: int,
        samples: int,
        seed: int,
        statistics: ChannelStatistics | None = None,
    ) -> None:
        self.images, self.chosen, self.labels = images, chosen, labels.cpu()
        self.samples, self.seed, self._statistics = samples, seed, statistics
        self.block = interleaved_blocks(self.labels, blocks)
        self.sizes = torch.bincount(self.block)
        self.dim = int(torch.tensor(images.shape[1:]).prod())
        self.variance = self._variances()
        _require_variation(self.variance, len(chosen))

    def zscored_curves(self, level: Tensor) -> Curves:
        """Return the gains of the set with each channel z-scored over it, at variances (V,)."""
        zscored = self._zscored()
        spread = zscored.variance / zscored.variance[0]  # z-scored without each block too
        return zscored.curves(spread[:, None] * level, ZSCORED)

    def _zscored(self) -> "Sample":
        parts = [self._read(part) for part in torch.arange(len(self.chosen)).split(IMAGES)]
        statistics = reduce(ChannelStatistics.merge, map(channel_statistics, parts))
        return Sample(
            self.images,
            self.chosen,
            self.labels,
            blocks=len(self.sizes),
            samples=self.samples,
            seed=self.seed,
            statistics=statistics,
        )

    def curves(self, levels: Tensor, estimators: Sequence[str] = tuple(ESTIMATORS)) -> Curves:
        """Return the gains at noise variances in the squared unit of the data.

        Args:
            levels: (R, V).
            estimators: some of ``ESTIMATORS``; the mixture of the classes is left out where they
                are too many for the images that are compared (``tells_overlap``).
        """
        if not tells_overlap(self.labels[self._kept]):
            estimators = [name for name in estimators if name != "_unconditional"]
        found: dict[str, Tensor] = {}
        doubtful: dict[str, Tensor] = {}
        bounds = None
        if not {"", "_unconditional"}.isdisjoint(estimators):
            alone, few = self._gains_of_classes(levels)
        for name in estimators:
            match name:
                case "":
                    found[name], doubtful[name] = alone, few
                case "_unconditional":
                    found[name], doubtful[name] = alone + self._overlap(levels), few
                case "_gaussian":
                    found[name], small = gaussian_gains(
                        *self._pooled_spectra, levels.to(self._points)
                    )
                    found[name], doubtful[name] = found[name].cpu(), small[0].cpu()
                case "_empirical":
                    found[name], bounds = self._empirical(levels[0])
                    doubtful[name] = (bounds[:, 1] - bounds[:, 0]).abs() > _WIDE * self.dim
                case _:
                    raise ValueError(
                        f"estimator {name!r}: there are {', '.join(map(repr, ESTIMATORS))}"
                    )
        return Curves(found, doubtful, bounds)

    def _read(self, positions: Tensor) -> Tensor:
        """Return (m, C, H, W) float64."""
        rows = self.images[self.chosen[positions]]
        values = (to_float(rows) if rows.dtype == torch.uint8 else rows).to(torch.float64)
        return values if self._statistics is None else normalise(values, self._statistics)

    def _variances(self) -> Tensor:
        """Return the (R,) variances of all images, however many."""
        parts: dict[int, list[Moments]] = {b: [] for b in range(len(self.sizes))}
        for positions in torch.arange(len(self.chosen)).split(IMAGES):
            data, block = self._read(positions).flatten(1), self.block[positions]
            for b in block.unique().tolist():
                own = data[(block == b).to(data.device)]
                mean = own.mean(dim=0)
                parts[b].append(Moments(len(own), mean, (own - mean).square().sum(dim=0)))
        blocks = [reduce(Moments.merge, own) for own in parts.values()]
        whole = reduce(Moments.merge, blocks)
        replicates = [whole, *(whole.without(block) for block in blocks)]
        return torch.stack([each.scatter.sum() / each.count for each in replicates]).cpu()

    @cached_property
    def _kept(self) -> Tensor:
        """Positions (m,) of the images that are compared with each other."""
        return in_proportion(self.labels, IMAGES)

    @cached_property
    def _kept_block(self) -> Tensor:
        """Blocks (m,) of the images that are compared.

        The first images of classes are in the first blocks, so they are dealt anew where classes
        have too few of them to be in all blocks.
        """
        block, blocks = self.block[self._kept], len(self.sizes)
        if int(torch.bincount(block, minlength=blocks).min()) * 2 * blocks < len(block):
            block[self.labels[self._kept].argsort(stable=True)] = torch.arange(len(block)) % blocks
        return block

    @cached_property
    def _points(self) -> Tensor:
        """Principal coordinates (m, r) of the images that are compared.

        They stand for all images, so they are given the variance of all.
        """
        points = principal_coordinates(self._read(self._kept).flatten(1))
        variance = points.square().sum() / len(points)
        _require_variation(variance, len(points))
        return points * (self.variance[0].to(variance) / variance).sqrt()

    @cached_property
    def _pooled_spectra(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (R, r) with the variance of all images, and (R,) degrees of freedom."""
        blocks = len(self.sizes)
        values, degrees = sample_spectra(self._points, self._kept_block, blocks)
        variance = values.sum(dim=1) * degrees / (1 + degrees)  # (R,)
        _require_variation(variance, len(self._points))
        return values * (self.variance.to(variance) / variance)[:, None], degrees

    @cached_property
    def _class_spectra(self) -> tuple[Tensor, Tensor]:
        """Covariance eigenvalues (K, R, r) of every class, and (K, R) degrees of freedom."""
        if not bool((self.labels != self.labels[:1]).any()):  # all of one class
            values, degrees = self._pooled_spectra
            return values[None], degrees[None]
        points, whole = self._points, len(self._kept) == len(self.chosen)
        found = []
        for name in self.labels.unique():
            own = torch.nonzero(self.labels == name).flatten()[:IMAGES]
            # distances within a class are the same in the coordinates of all images
            data = points[own.to(points.device)] if whole else self._read(own).flatten(1)
            found.append(
                sample_spectra(principal_coordinates(data), self.block[own], len(self.sizes))
            )
        most = max(values.shape[1] for values, _ in found)
        padded = [torch.nn.functional.pad(x, (0, most - x.shape[1])) for x, _ in found]
        return torch.stack(padded), torch.stack([degrees for _, degrees in found])

    def _gains_of_classes(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (R, V, 2), the mean over classes, and (V,) whether any class is too small."""
        values, degrees = self._class_spectra
        every = levels.to(self._points).repeat(len(values), 1)  # (K R, V)
        gains, small = gaussian_gains(values.flatten(0, 1), degrees.flatten(), every)
        shape = (len(values), *levels.shape)
        return gains.view(*shape, 2).mean(0).cpu(), small.view(shape)[:, 0].any(0).cpu()

    def _overlap(self, levels: Tensor) -> Tensor:
        """Return (R, V, 2): what not knowing the class adds.

        Without a block of draws, and in few directions of images too: errors of many classes that
        overlap then cancel most of those of the classes alone.
        """
        points = self._points[:, :_DIRECTIONS]
        labels, levels = self.labels[self._kept].to(points.device), levels.to(points)
        if not bool((labels != labels[0]).any()):
            return torch.zeros(1, levels.shape[1], 2, dtype=torch.float64)
        mixture = ClassGaussians.of(points, labels)
        draws = mixture.draw(self.samples, self._generator())
        found, blocks = mixture.overlap(levels[0], draws), len(self.sizes)
        alone = bool((labels.unique(return_counts=True)[1] < 2).any())  # lost with its block
        if alone or points.shape[1] > _FEW_DIRECTIONS:
            return _left_out(found, blocks)
        block, drawn = self._kept_block.to(points.device), torch.arange(len(found)) % blocks
        means = [found.mean(dim=0)]
        for b in range(blocks):
            others = ClassGaussians.of(points[block != b], labels[block != b])
            means.append(others.overlap(levels[1 + b], draws)[drawn != b].mean(dim=0))
        return torch.stack(means)

    def _empirical(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (R, V, 2), replicated over noisy points, and (V, 2) bounds of E tr G."""
        chosen = in_proportion(self.labels, _EMPIRICAL_IMAGES)  # some of those that are kept
        points = self._points[torch.isin(self._kept, chosen).to(self._points.device)]
        labels, generator = self.labels[chosen], self._generator()
        asked = in_proportion(labels, _NOISY_POINTS, generator)
        asked = asked[labels[asked].argsort(stable=True)]  # so that each block has every class
        at = empirical_gains(points - points.mean(0), levels.to(points), asked, generator)
        bounds = torch.stack((at.gains[..., 0].mean(dim=0), at.most.mean(dim=0)), dim=1)
        return _left_out(at.gains, len(self.sizes)), bounds

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def _require_variation(variances: Tensor, images: int) -> None:
    if not bool((variances > 0).all()):
        raise MeasurementError(f"{images} equal images have no Fisher information")


def _left_out(draws: Tensor, blocks: int) -> Tensor:
    """Return (R, ...) means of independent draws (M, ...)."""
    block = torch.arange(len(draws)) % blocks
    means = [draws.mean(dim=0)]
    means += [draws[block != b].mean(dim=0) for b in range(blocks)]
    return torch.stack(means)
