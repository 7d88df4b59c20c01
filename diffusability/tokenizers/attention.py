"""Scaled dot-product attention by the kernel that is fast where it runs."""

import torch
from torch import Tensor
from torch.nn import functional


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √c) v (Vaswani et al., arXiv 1706.03762, Eq. 1).

    Args:
        query: (B, heads, N, c).
        key: (B, heads, N, c).
        value: (B, heads, N, c); queries and keys of a wider dtype are rounded to its.

    Returns:
        (B, heads, N, c), in the dtype of value.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    half = value.dtype in (torch.bfloat16, torch.float16)
    if half and value.requires_grad and value.device.type == "cpu":
        # the fused backward pass in bfloat16 is several times slower there than plain products
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5  # (B, heads, N, N)
        return torch.softmax(scores, dim=3).to(value.dtype) @ value
    return functional.scaled_dot_product_attention(query, key, value)
