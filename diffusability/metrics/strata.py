"""Parts of a labelled set in which every class has its share."""

import torch
from torch import Tensor


def rank_in_class(labels: Tensor) -> Tensor:
    """Return how many images of the same class come before each of (N,) images."""
    _, index, sizes = labels.unique(return_inverse=True, return_counts=True)
    by_class = index.argsort(stable=True)
    first = (sizes.cumsum(0) - sizes)[index[by_class]]  # where the class begins in `by_class`
    rank = torch.empty_like(index)
    rank[by_class] = torch.arange(len(labels), device=labels.device) - first
    return rank


def interleaved_blocks(labels: Tensor, blocks: int) -> Tensor:
    """Return the (N,) block of each image, assigned round-robin within each class.

    There are at most as many blocks as the largest class has images.
    """
    return rank_in_class(labels) % blocks


def in_proportion(labels: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Return at most `count` positions, in order, of each class in proportion to its size.

    Args:
        labels: (N,) classes.
        count: number of positions, all where it is at least N.
        generator: draws them at random, so that each image is equally likely whatever the order of
            the images is; on the CPU. None: the first images of each class, at least one of each
            where `count` allows.
    """
    if count >= len(labels):
        return torch.arange(len(labels), device=labels.device)
    names, index, sizes = labels.unique(return_inverse=True, return_counts=True)
    rank = rank_in_class(labels).to(torch.float64)
    if generator is not None:
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        rank[order] = rank_in_class(labels[order]).to(rank)
        rank += torch.rand(len(names), generator=generator, dtype=rank.dtype).to(rank)[index]
    return (rank / sizes[index]).argsort(stable=True)[:count].sort().values
