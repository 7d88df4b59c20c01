"""Velocity values of groups of images: whole classes, or random halves of them, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.class_velocity import (
    class_spectra,
    dct_diagonal_variance,
    velocity_values,
)
from diffusability.metrics.kronecker import KroneckerFit, flip_flop
from diffusability.metrics.latent_set import LatentSet
from diffusability.metrics.mixture_velocity import KroneckerMixture
from diffusability.metrics.velocity_sensitivity import channel_sensitivity, dct_shares

_BATCH_BYTES = 128 * 2**20


@dataclass(frozen=True)
class GroupFits:
    """Values and diagnostics of a list of groups of images, in the order of the list.

    Attributes:
        values: (G, columns) of ``velocity_values``.
        energy: (G, C) mean square of each channel of the latents as they were read.
        sensitivity: (columns, C) derivative, in the log scale of each channel, of the mean of
            ``values`` over groups; zero where the latents are not z-scored.
        unconverged, deficient: numbers of groups that ran out of iterations, or were singular.
        components: per batch of whole classes, positions in the list and mixture components.
    """

    values: Tensor
    energy: Tensor
    sensitivity: Tensor
    unconverged: int
    deficient: int
    components: list[tuple[Tensor, KroneckerMixture]]

    def mixture(self) -> KroneckerMixture:
        """Return all components in the order of the list."""
        order = torch.cat([positions for positions, _ in self.components]).argsort()
        fields = ("means", "row_values", "row_vectors", "column_values", "column_vectors")
        return KroneckerMixture(
            *(torch.cat([getattr(part, f) for _, part in self.components])[order] for f in fields)
        )

    def linearised(self, groups: "GroupFits", weights: Tensor) -> Tensor:
        """Return the values of some groups, each with its pull on the common z-score.

        A group with mean square e of a channel pulls the variance of that channel over the set in
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
    data: LatentSet, groups: list[Tensor], normalised: bool, *, whole_classes: bool
) -> GroupFits:
    """Fit every group, batched with others of like size.

    Args:
        data: the latents.
        groups: indices of the images of each group.
        normalised: whether to z-score the latents.
        whole_classes: keep what only whole classes are asked for, the mixture and sensitivities.

    Raises:
        MeasurementError: the latents of a group are all identical.
    """
    grid = (data.height, data.width)
    order, values, energy, sensitivity, components = [], [], [], [], []
    unconverged = deficient = 0
    for positions in _batches(groups, data.channels * data.height * data.width):
        batch = _read(data, [groups[i] for i in positions], normalised)
        fit = flip_flop(batch.centred, batch.counts)
        spectra = class_spectra(batch.centred, batch.counts, fit)
        if whole_classes and normalised:
            shares = dct_shares(batch.centred, batch.counts, grid)  # (k, C)
            viv_dct = shares.sum(dim=1)  # (k,)
            moved = channel_sensitivity(batch.centred, fit, spectra, shares)
            sensitivity.append(moved.sum(dim=0) / len(groups))  # (columns, C)
        else:
            viv_dct = dct_diagonal_variance(batch.centred, batch.counts, grid)  # (k,)
        if whole_classes:
            part = _mixture_part(batch.means, fit, spectra.separability)
            components.append((torch.tensor(positions, device=data.device), part))
        order += positions
        values.append(velocity_values(spectra, viv_dct))
        energy.append(batch.energy)
        unconverged += int((~fit.converged).sum())
        deficient += int(fit.deficient.sum())
    back = torch.tensor(order, device=data.device).argsort()
    columns = torch.cat(values)[back]  # (G, columns)
    none = columns.new_zeros(columns.shape[1], data.channels)
    return GroupFits(
        columns,
        torch.cat(energy)[back],
        sum(sensitivity, none),
        unconverged,
        deficient,
        components,
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


def _batches(groups: list[Tensor], dimensions: int) -> Iterator[list[int]]:
    """Yield positions of groups of like size whose padded float64 samples stay near 128 MiB."""
    by_size = sorted(range(len(groups)), key=lambda i: groups[i].numel(), reverse=True)
    while by_size:
        largest = groups[by_size[0]].numel() * dimensions * 8
        take = max(1, _BATCH_BYTES // largest)
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
                "covariance. Look for duplicated images or a collapsed tokenizer"
            )
    return _Batch(centred, means, torch.tensor(sizes, device=data.device), energy)


def _mixture_part(means: Tensor, fit: KroneckerFit, separability: Tensor) -> KroneckerMixture:
    """Return the trace-rescaled components of one batch in their eigenbases."""
    a, rows = torch.linalg.eigh(fit.rows)  # (k, C), (k, C, C)
    b, columns = torch.linalg.eigh(fit.columns)  # (k, S), (k, S, S)
    rescaled = a.clamp(min=0) / separability[:, None]  # (k, C)
    return KroneckerMixture(means, rescaled, rows, b.clamp(min=0), columns)
