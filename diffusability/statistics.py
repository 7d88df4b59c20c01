"""Statistics that every layer shares: moments that merge, and standard errors.

Moments of disjoint samples merge exactly, so shards can be reduced in any order, on any number of
machines, and a shard can be left out again for an error estimate.
Source: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances" (1979).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from diffusability.errors import MeasurementError


def require_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinity where they arise, before a cast or a clamp hides them.

    Args:
        values: (N, ...), one row per image.
        what: what they are and what made them, for the message.

    Raises:
        MeasurementError: naming `what`, the number of bad rows and the first of them.
    """
    finite = torch.isfinite(values)  # (N, ...)
    if finite.ndim > 1:
        finite = finite.flatten(1).all(dim=1)  # (N,)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).flatten().tolist()
        raise MeasurementError(
            f"{what}: {len(bad)} of {len(values)} in a batch are not finite (first {bad[:5]}); "
            "the network's weights are damaged, or it diverged"
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of D-dimensional vectors, in float64.

    Subclasses add fields that identify their vectors; ``require_comparable`` refuses to merge
    moments of different kinds.

    Attributes:
        count: number n of vectors.
        mean: (D,) arithmetic mean.
        scatter: sums of products of deviations from the mean: (D,), of each coordinate with
            itself, or (D, D), of every pair.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    def require_comparable(self, other: Self) -> None:
        """Refuse moments of another kind of vectors.

        Raises:
            MeasurementError: the two are not of the same vectors.
        """
        if self.mean.shape != other.mean.shape:
            raise MeasurementError(
                f"moments of {self.mean.numel()} and of {other.mean.numel()} dimensions cannot be "
                "merged"
            )

    def merge(self, other: Self) -> Self:
        """Return the moments of both samples together (exact, commutative, associative).

        Raises:
            MeasurementError: the two do not belong together.
        """
        self.require_comparable(other)
        count = self.count + other.count
        shift = other.mean - self.mean  # (D,)
        mean = self.mean + shift * (other.count / count)
        between = self._products(shift) * (self.count * other.count / count)
        scatter = self.scatter + other.scatter + between
        return replace(self, count=count, mean=mean, scatter=scatter)

    def without(self, part: Self) -> Self:
        """Return the moments without the vectors of ``part``.

        Raises:
            MeasurementError: nothing would be left, or the two do not belong together.
        """
        self.require_comparable(part)
        count = self.count - part.count
        if count < 1:
            raise MeasurementError(f"cannot remove {part.count} vectors from {self.count}")
        mean = self.mean + (self.mean - part.mean) * (part.count / count)
        between = self._products(part.mean - mean) * (count * part.count / self.count)
        scatter = self.scatter - part.scatter - between
        return replace(self, count=count, mean=mean, scatter=scatter)

    def _products(self, shift: Tensor) -> Tensor:
        """Return the products of a vector's (D,) coordinates that ``scatter`` holds."""
        return shift.square() if self.scatter.ndim == 1 else torch.outer(shift, shift)


def mean_and_stderr(values: Tensor, what: str, units: str = "usable images") -> tuple[float, float]:
    """Return the mean over independent units and its standard error.

    The standard error, std / sqrt(n) with ddof = 1, is the limit of the bootstrap over units for
    many resamples, so no resampling is needed.

    Args:
        values: (n,) float64, one value per independent unit.
        what, units: names of the quantity and of the units it is averaged over, for the message.

    Returns:
        Mean and standard error, both in the unit of ``values``.

    Raises:
        MeasurementError: fewer than two units.
    """
    if values.numel() < 2:
        raise MeasurementError(
            f"{what}: {values.numel()} {units} give no standard error; give at least two"
        )
    return float(values.mean()), float(values.std(correction=1)) / values.numel() ** 0.5


def jackknife_stderr(replicates: Tensor) -> float:
    """Return the delete-one jackknife standard error (Efron and Stein 1981).

    Args:
        replicates: (n,) float64, the statistic with each unit left out in turn.

    Returns:
        Standard error in the unit of the statistic.
    """
    count = replicates.numel()
    spread = (replicates - replicates.mean()).square().sum()
    return float(torch.sqrt(spread * (count - 1) / count))


def delete_block_stderr(full: float, left_out: Tensor, sizes: Tensor) -> float:
    """Return the delete-a-block jackknife standard error for blocks of any sizes.

    With h_j = n / m_j for block j of m_j among n samples, the pseudo-values are
    h_j full - (h_j - 1) left_out_j, the jackknife estimate is
    B full - sum_j (1 - 1/h_j) left_out_j, and the variance is the mean over blocks of
    (pseudo_j - estimate)^2 / (h_j - 1). For equal blocks this is the ordinary grouped jackknife.
    Source: Busing, Meijer, van der Leeden, "Delete-m jackknife for unequal m",
    Statistics and Computing 9 (1999).

    Args:
        full: the statistic of all samples.
        left_out: (B,) the statistic of all samples but those of block j.
        sizes: (B,) number of samples in each block.

    Returns:
        Standard error, in the statistic's unit, >= 0.

    Raises:
        MeasurementError: if there are fewer than two blocks.
    """
    blocks = len(left_out)
    if blocks < 2:
        raise MeasurementError(
            f"a jackknife error needs at least two blocks of samples, got {blocks}; "
            "give the samples as several shards"
        )
    left_out, sizes = left_out.to(torch.float64), sizes.to(torch.float64)
    ratio = sizes.sum() / sizes  # (B,)
    pseudo = ratio * full - (ratio - 1) * left_out
    # With unequal blocks the estimate is not the plain mean of the pseudo-values.
    estimate = blocks * full - ((1 - 1 / ratio) * left_out).sum()
    return float(((pseudo - estimate).square() / (ratio - 1)).mean().sqrt())


def deal_blocks(
    counts: Sequence[int],
    blocks: int,
    generator: torch.Generator,
    images: Sequence[Tensor] | None = None,
) -> list[list[Tensor]]:
    """Deal the samples of several sets into blocks at random, for a jackknife over blocks.

    Args:
        counts: number of samples of each set.
        blocks: number B of blocks.
        generator: CPU generator.
        images: per set (n,) int64, which image each sample is a version of: all samples of one
            image, in whatever set, go into one block, because they vary together. None: all
            samples are independent.

    Returns:
        Per set B index tensors, which samples are in each block, of nearly equal sizes where
        every image has as many samples.

    Raises:
        MeasurementError: there is not one image per sample.
    """
    if images is None:
        orders = [torch.randperm(count, generator=generator) for count in counts]
        return [list(order.tensor_split(blocks)) for order in orders]
    if [len(own) for own in images] != list(counts):
        raise MeasurementError(
            f"sets of {list(counts)} samples have {[len(own) for own in images]} images; give one "
            "image per sample"
        )
    known, owner = torch.cat([own.cpu() for own in images]).unique(return_inverse=True)
    owners = owner.split(list(counts))  # per set (n,)
    # images that are in the same sets are dealt among themselves, so that every block has its
    # share of each set
    kind = torch.zeros_like(known)  # (n,)
    for place, own in enumerate(owners):
        kind[own.unique()] += 2**place
    block = torch.empty_like(known)  # (n,)
    for one in kind.unique():
        alike = (kind == one).nonzero().flatten()
        order = alike[torch.randperm(len(alike), generator=generator)]
        for position, part in enumerate(order.tensor_split(blocks)):
            block[part] = position
    return [[(block[own] == b).nonzero().flatten() for b in range(blocks)] for own in owners]


def ratio_influences(numerators: Tensor, denominators: Tensor, what: str) -> tuple[float, Tensor]:
    """Return sum(a) / sum(b) over images and the influence of each image on it.

    Args:
        numerators: (N,) float64 a_i, one per image.
        denominators: (N,) float64 b_i of the same images; their sum must be positive.
        what: name of the quantity, for the message.

    Returns:
        The ratio R and the (N,) influences (a_i - R b_i) / mean(b), which average to 0.

    Raises:
        MeasurementError: if there are fewer than two images, or the denominators vanish.
    """
    if len(numerators) < 2:
        raise MeasurementError(f"{what}: {len(numerators)} image(s) give no standard error")
    scale = float(denominators.mean())
    if not scale > 0:
        raise MeasurementError(f"{what}: the latents do not vary, a relative value is undefined")
    ratio = float(numerators.mean()) / scale
    return ratio, (numerators - ratio * denominators) / scale


def influence_stderr(influences: Tensor) -> float:
    """Return the standard error of an estimate from its (N,) influences (the delta method)."""
    count = len(influences)
    return math.sqrt(float(influences.square().sum() / (count - 1))) / math.sqrt(count)


def mean_influences(values: Tensor) -> tuple[float, Tensor]:
    """Return the mean of (N,) values and the influence of each, as ``ratio_influences`` does."""
    return float(values.mean()), values - values.mean()


# Half-sampling, errors and finite-sample bias of a statistic from random halves of its sample:
# McCarthy 1969 (balanced half-samples) for the error; the linear extrapolation in 1/n is the
# jackknife of Quenouille 1956 with half of the sample left out.
@dataclass(frozen=True)
class Halves:
    """Random halvings of some classes.

    Attributes:
        groups: 2 P index tensors, the two halves of each halving next to each other.
        owners: (P,) index of the class that each halving cuts, sorted.
        sizes: (P, 2) float64 numbers of images in the halves.
        class_sizes: (K,) float64 numbers of images in the classes.
    """

    groups: list[Tensor]
    owners: Tensor
    sizes: Tensor
    class_sizes: Tensor


@dataclass(frozen=True)
class Halving:
    """Halves with the values of the statistic on them.

    Attributes:
        halves: the halves.
        values: (P, 2, columns) values.
        linear: (P, 2, columns) values plus the first-order effect of the half's images on other
            terms of the mean over classes; equal to ``values`` if there is none.
    """

    halves: Halves
    values: Tensor
    linear: Tensor


def draw_halves(groups: list[Tensor], least: int, generator: torch.Generator) -> Halves:
    """Split classes at random into halves, at least ``least`` times in total.

    Args:
        groups: K index tensors, the images of each class.
        least: number of halvings; every class gets ceil(least / K), or, where K is larger, one
            goes to each of ``least`` classes drawn without replacement.
        generator: draws classes and halves.
    """
    K = len(groups)
    where: dict[str, Any] = {"generator": generator, "device": generator.device}
    if least < K:
        owners = torch.randperm(K, **where)[:least].sort().values  # (P,)
    else:
        owners = torch.arange(K).repeat_interleave(-(-least // K))  # (P,)
    halves, sizes = [], []
    for owner in owners.tolist():
        images = groups[owner]
        shuffled = images[torch.randperm(images.numel(), **where).to(images.device)]
        half = images.numel() // 2
        halves += [shuffled[:half], shuffled[half:]]
        sizes.append([half, images.numel() - half])
    device = groups[0].device
    class_sizes = [group.numel() for group in groups]
    return Halves(
        halves,
        owners.to(device),
        torch.tensor(sizes, dtype=torch.float64, device=device),
        torch.tensor(class_sizes, dtype=torch.float64, device=device),
    )


def error_of_mean(halving: Halving, column: int, classes: int) -> float:
    """Return the standard error, over images, of the mean of one column over classes.

    With halves of n1 and n2 of n images, the squared difference of their values times n1 n2 / n^2
    estimates the variance of the class's value; it is averaged over halvings and over classes.

    Args:
        halving: the halves and their values.
        column: which value.
        classes: number K of classes in the mean, halved or not.
    """
    sizes = halving.halves.sizes  # (P, 2)
    difference = halving.linear[:, 0, column] - halving.linear[:, 1, column]  # (P,)
    variance = difference.square() * sizes.prod(dim=1) / sizes.sum(dim=1).square()  # (P,)
    return float(variance.mean() / classes) ** 0.5


def corrected_mean(values: Tensor, halving: Halving, column: int) -> tuple[float, float]:
    """Return the mean over classes extrapolated to infinite samples, and its standard error.

    A value is modelled as V + c/n; its halves give c, and c/n is subtracted. The error includes
    that of the correction, estimated from its spread over classes.

    Args:
        values: (K,) values on whole classes.
        halving: the halves and their values.
        column: which value of the halves belongs to ``values``.
    """
    owners, sizes = halving.halves.owners, halving.halves.sizes  # (P,), (P, 2)
    inverse_whole = 1 / sizes.sum(dim=1)  # (P,)
    inverse_half = (1 / sizes).mean(dim=1)  # (P,)
    rise = halving.values[:, :, column].mean(dim=1) - values[owners]  # (P,)
    bias = rise / (inverse_half - inverse_whole) * inverse_whole  # (P,), c/n
    halved, rank, times = owners.unique(return_inverse=True, return_counts=True)
    bias = torch.zeros_like(halved, dtype=bias.dtype).index_add_(0, rank, bias) / times  # (J,)
    spread = float(bias.var(correction=1)) / halved.numel() if halved.numel() > 1 else 0.0
    error = error_of_mean(halving, column, values.numel())
    return float(values.mean() - bias.mean()), (error**2 + spread) ** 0.5
