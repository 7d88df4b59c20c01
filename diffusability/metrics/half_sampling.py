"""Half-sampling: errors and finite-sample bias of a statistic from random halves of its sample.

McCarthy 1969 (balanced half-samples) for the error; the linear extrapolation in 1/n is the
jackknife of Quenouille 1956 with half of the sample left out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Halves:
    """Random halvings of some classes.

    Attributes:
        groups: 2 P index tensors, the two halves of each halving next to each other.
        owners: (P,) position of the class that each halving cuts, sorted.
        sizes: (P, 2) float64 numbers of images in the halves.
        class_sizes: (K,) float64 numbers of images in the classes.
    """

    groups: list[Tensor]
    owners: Tensor
    sizes: Tensor
    class_sizes: Tensor


@dataclass(frozen=True)
class Halving:
    """Halves with what the statistic takes on them.

    Attributes:
        halves: the halves.
        values: (P, 2, columns) values.
        linear: (P, 2, columns) values plus, to first order, what else the images of a half move
            in the mean over classes; ``values`` again where they move nothing else.
    """

    halves: Halves
    values: Tensor
    linear: Tensor


def draw_halves(groups: list[Tensor], least: int, generator: torch.Generator) -> Halves:
    """Cut classes at random into halves, at least ``least`` times in all.

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

    A value behaves as V + c/n; its halves give c, and c/n is taken off. The error adds that of
    the correction, seen from its spread over classes.

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
