"""The geometry-preserving encoder's loss: pairwise distances before and after encoding.

Source: "A Geometry Preserving Encoder/Decoder" (arXiv 2501.09876), its Gromov-Monge cost.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusability.errors import MeasurementError


def geometry_preservation_loss(x: Tensor, z: Tensor) -> Tensor:
    """Return the mean over pairs of log^2((1 + |z - z'|^2) / (1 + |x - x'|^2)).

    Zero for every isometry. Far pairs count by the ratio of their distances, near ones (distance
    well below 1) hardly at all.

    Args:
        x: (B, ...) data, B at least 2.
        z: (B, ...) their latents.

    Returns:
        Scalar; LOWER is better.

    Raises:
        MeasurementError: the numbers of data differ, or there is no pair.
    """
    if len(x) != len(z) or len(x) < 2:
        raise MeasurementError(f"{len(x)} data and {len(z)} latents make no pairs to compare")
    before, after = F.pdist(x.flatten(1)), F.pdist(z.flatten(1))  # (B (B - 1) / 2,) each
    return (torch.log1p(after.square()) - torch.log1p(before.square())).square().mean()
