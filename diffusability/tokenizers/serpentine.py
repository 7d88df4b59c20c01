"""Vectors as latent grids, in serpentine (boustrophedon) order.

Consecutive entries of the vector are neighbours in the grid: rows are traversed to the right and to
the left alternately, and every other channel in reverse.
"""

import torch
from torch import Tensor

from diffusability.errors import StudyError
from diffusability.nn.transfer import to_device


def serpentine(channels: int, height: int, width: int) -> Tensor:
    """Return the index in a flattened C x H x W grid of each entry of a vector.

    Returns:
        (C·H·W,) int64, a permutation: entry i is at grid.flatten()[order[i]].
    """
    rows = torch.arange(height * width).view(height, width)
    rows[1::2] = rows[1::2].flip(1)  # odd rows to the left
    plane = rows.flatten()
    walks = [
        c * height * width + (plane.flip(0) if c % 2 else plane)  # every other channel in reverse
        for c in range(channels)
    ]
    return torch.cat(walks)


def to_grid(vectors: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Lay vectors out as latents.

    Args:
        vectors: (B, d).
        shape: channels, height and width; d = C·H·W.

    Returns:
        (B, C, H, W).

    Raises:
        StudyError: the number of entries is not C·H·W.
    """
    order = to_device(serpentine(*shape), vectors.device)
    if len(order) != vectors.shape[1]:
        raise StudyError(
            f"a vector of {vectors.shape[1]} entries does not fill a latent of "
            f"{' x '.join(map(str, shape))}; choose channels and factor so that it does"
        )
    return vectors[:, order.argsort()].unflatten(1, shape)


def to_vector(grids: Tensor) -> Tensor:
    """Read latents (B, C, H, W) as the (B, C·H·W) vectors that `to_grid` laid out."""
    order = to_device(serpentine(*grids.shape[1:]), grids.device)
    return grids.flatten(1)[:, order]
