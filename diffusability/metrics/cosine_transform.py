"""The orthonormal two-dimensional cosine transform, as products with two small matrices."""

import math

import torch
from torch import Tensor


def dct_matrix(size: int, device: torch.device | None = None) -> Tensor:
    """Return the (size, size) float64 orthonormal DCT-II: row k is frequency k."""
    index = torch.arange(size, dtype=torch.float64, device=device)
    basis = torch.cos(math.pi / size * (index + 0.5) * index[:, None])  # (k, i)
    basis[0] /= math.sqrt(2)
    return basis * math.sqrt(2 / size)


def cosine_transform(latents: Tensor) -> Tensor:
    """Return the orthonormal 2-D DCT-II of the last two axes (Eq. 7).

    Args:
        latents: (..., H, W).

    Returns:
        (..., H, W) coefficients; (0, 0) is the mean times sqrt(H*W).
    """
    height, width = latents.shape[-2:]
    rows = dct_matrix(height, latents.device).to(latents.dtype)  # (H, H)
    columns = dct_matrix(width, latents.device).to(latents.dtype)  # (W, W)
    return rows @ latents @ columns.mT  # (..., H, W)
