"""Velocity values of groups of images: whole classes, or random halves of them, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.class_velocity import (
    channel_sensitivity,
    class_spectra,
    dct_diagonal_variance,
    dct_shares,
    velocity_values,
)
from diffusability.metrics.kronecker import KroneckerFit, flip_flop
from diffusability.metrics.latent_set import LatentSet
from diffusability.metrics.mixture_velocity import KroneckerMixture
from diffusability.metrics.thread_map import thread_map

# On a CPU samples and products stay near the cache, and temporaries reuse memory: twice as fast as
# 128 MiB, which a GPU needs to be busy.
_CPU_BATCH_BYTES = 8 * 2**20
_GPU_BATCH_BYTES = 128 * 2**20


@dataclass(frozen=True)
class GroupFits:
    """Values and diagnostics of a list of groups of images, in the order of the list.

    Attributes:
        values: (G, columns) of ``velocity_values``.
        energy: (G, C) mean square of each channel of the latents as they were read.
        sensitivity: (columns, C) derivative, in the log scale of each channel, of the mean of
            ``values`` over groups; zero for halves, and where the latents are not z-scored.
        unconverged, deficient: numbers of groups that ran out of iterations, or were singular.
    """

    values: Tensor
    energy: Tensor
    sensitivity: Tensor
    unconverged: int
    deficient: int

    def linearised(self, groups: "GroupFits", weights: Tensor) -> Tensor:
        """Return the values of some groups, including their effect on the common z-score.

        A group with mean square e in a channel changes the variance of that channel over the set in
        proportion to its images, and a larger variance shrinks the z-scores of every class.

        Args:
            groups: halves of the classes of this object, or this object itself.
            weights: (G,) images of each group's class over the mean number of images of a class.

        Returns:
            (G, columns) values whose differences within a class are those of the mean over
            classes, times the number of classes, to first order.
        """
        pull = groups.energy @ self.sensitivity.mT / 2  # (G, columns)
        return groups.values - weights[:, None] * pull


def fit_groups(
    data: LatentSet,
    groups: list[Tensor],
    normalised: bool,
    components: KroneckerMixture | None = None,
    *,
    plain: bool = False,
) -> GroupFits:
    """Fit every group, batched with others of like size.

    Args:
        data: the latents.
        groups: indices of the images of each group.
        normalised: whether to z-score the latents.
        components: where the groups are whole classes, storage for as many components. They
            are written in the order of the list, and the sensitivity is computed.
        plain: see ``flip_flop``.

    Raises:
        MeasurementError: the latents of a group are all identical.
    """
    batches = list(_batches(groups, data))

    def fit(positions: list[int]) -> GroupFits:
        batch = _read(data, [groups[i] for i in positions], normalised)
        fitted = flip_flop(batch.centred, batch.counts, plain=plain)
        grid = (data.height, data.width)
        return _values_of_batch(batch, fitted, grid, positions, components, normalised)

    fits = thread_map(fit, batches, data.device)
    back = torch.tensor(list(chain(*batches)), device=data.device).argsort()
    return GroupFits(
        torch.cat([one.values for one in fits])[back],
        torch.cat([one.energy for one in fits])[back],
        torch.stack([one.sensitivity for one in fits]).sum(dim=0) / len(groups),
        sum(one.unconverged for one in fits),
        sum(one.deficient for one in fits),
    )


@dataclass(frozen=True)
class _Batch:
    """Samples of k groups.

    Attributes:
        centred: (k, n, C, H*W) deviations from the group mean, padded with zeros.
        means: (k, C, H*W) group means.
        counts: (k,) images.
        energy: (k, C) mean square of each channel.
    """

    centred: Tensor
    means: Tensor
    counts: Tensor
    energy: Tensor


def _values_of_batch(
    batch: _Batch,
    fit: KroneckerFit,
    grid: tuple[int, int],
    positions: list[int],
    components: KroneckerMixture | None,
    normalised: bool,
) -> GroupFits:
    """Return the values of one batch, whose sensitivity is the sum over its groups."""
    centred, counts = batch.centred, batch.counts
    spectra = class_spectra(centred, counts, fit)
    if components is not None and normalised:
        shares = dct_shares(centred, counts, grid)  # (k, C)
        values = velocity_values(spectra, shares.sum(dim=1))  # (k, columns)
        sensitivity = channel_sensitivity(centred, fit, spectra, shares).sum(dim=0)  # (columns, C)
    else:
        values = velocity_values(spectra, dct_diagonal_variance(centred, counts, grid))
        sensitivity = values.new_zeros(values.shape[1], centred.shape[2])
    if components is not None:
        _write_components(components, positions, batch.means, fit, spectra.separability)
    unconverged, deficient = int((~fit.converged).sum()), int(fit.deficient.sum())
    return GroupFits(values, batch.energy, sensitivity, unconverged, deficient)


def _batches(groups: list[Tensor], data: LatentSet) -> Iterator[list[int]]:
    """Yield positions of groups of like size whose padded float64 samples stay near the limit."""
    dimensions = data.channels * data.height * data.width
    limit = _CPU_BATCH_BYTES if data.device.type == "cpu" else _GPU_BATCH_BYTES
    by_size = sorted(range(len(groups)), key=lambda i: groups[i].numel(), reverse=True)
    while by_size:
        largest = groups[by_size[0]].numel() * dimensions * 8
        take = max(1, limit // largest)
        yield by_size[:take]
        by_size = by_size[take:]


def _read(data: LatentSet, groups: list[Tensor], normalised: bool) -> _Batch:
    """Read and centre groups of images."""
    sizes = [group.numel() for group in groups]
    shape = (data.channels, data.height * data.width)
    where: dict[str, Any] = {"dtype": torch.float64, "device": data.device}
    centred = torch.zeros(len(groups), max(sizes), *shape, **where)
    means = torch.empty(len(groups), *shape, **where)
    energy = torch.empty(len(groups), data.channels, **where)
    for row, group in enumerate(groups):
        block = data.read(group, normalised).flatten(2)  # (n_k, C, H*W)
        means[row] = block.mean(dim=0)
        energy[row] = block.square().mean(dim=(0, 2))
        centred[row, : sizes[row]] = block - means[row]
        if bool((block == block[0]).all()):
            raise MeasurementError(
                f"All latents of the class of image {int(group[0])} are identical: it has no "
                "covariance. Check for duplicate images or a collapsed tokenizer"
            )
    return _Batch(centred, means, torch.tensor(sizes, device=data.device), energy)


def _write_components(
    components: KroneckerMixture,
    positions: list[int],
    means: Tensor,
    fit: KroneckerFit,
    separability: Tensor,
) -> None:
    """Write the trace-rescaled components of one batch, each in its eigenbasis."""
    a, rows = torch.linalg.eigh(fit.rows)  # (k, C), (k, C, C)
    b, columns = torch.linalg.eigh(fit.columns)  # (k, S), (k, S, S)
    components.means[positions] = means
    components.row_values[positions] = a.clamp(min=0) / separability[:, None]
    components.row_vectors[positions] = rows
    components.column_values[positions] = b.clamp(min=0)
    components.column_vectors[positions] = columns
