"""Self-attention over tokens, with the fastest kernel for the device."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusability.nn.layers import linear_parts

_fused_everywhere = ContextVar("fused_everywhere", default=False)
Rotary = Callable[[Tensor], Tensor]  # rotates (B, N, heads, head_dim) by the tokens' positions


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(q kᵀ / √c) v (Vaswani et al., arXiv 1706.03762, Eq. 1).

    Args:
        query: (B, heads, N, c).
        key: (B, heads, N, c).
        value: (B, heads, N, c); queries and keys are cast to its dtype.

    Returns:
        (B, heads, N, c), in the dtype of value.
    """
    # under autocast, norms and rotary return float32; the fused kernels need one dtype
    query, key = query.to(value.dtype), key.to(value.dtype)
    half = value.dtype in (torch.bfloat16, torch.float16)
    if half and value.requires_grad and value.device.type == "cpu" and not _fused_everywhere.get():
        # there, the fused bfloat16 backward pass is several times slower than plain products
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5  # (B, heads, N, N)
        return torch.softmax(scores, dim=3).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Use the fused kernel on the CPU too, as on a GPU: what it keeps is counted so."""
    token = _fused_everywhere.set(True)
    try:
        yield
    finally:
        _fused_everywhere.reset(token)


def forward_mode_attention() -> AbstractContextManager[None]:
    """Switch attention to the kernel with forward-mode derivatives.

    The fused kernels of `scaled_dot_product_attention` implement the backward pass only, so
    `torch.func.jvp` and double backward need the plain matrix form, which holds the N x N scores::

        with forward_mode_attention():
            value, tangent = torch.func.jvp(network, (x,), (direction,))

    Returns:
        A context manager; outside it the fastest kernel is used.
    """
    return sdpa_kernel(SDPBackend.MATH)


class Attention(nn.Module):
    """Multi-head self-attention, with or without norms of queries and keys and rotary position."""

    def __init__(
        self, width: int, heads: int, qk_norm: Callable[[int], nn.Module] = nn.Identity
    ) -> None:
        """Create the projections.

        Args:
            width: channels of a token.
            heads: divides width.
            qk_norm: builds a norm from the channels of a head; called for queries and for keys.
        """
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = qk_norm(width // heads)
        self.key_norm = qk_norm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Mix the tokens of x.

        Args:
            x: (B, N, D) tokens.
            rotary: rotates queries and keys after their norm; None for no rotary position.

        Returns:
            (B, N, D).
        """
        query, key, value = (
            part.unflatten(-1, (self.heads, -1))  # (B, N, heads, head_dim)
            for part in linear_parts(self.qkv, x, 3)
        )
        query, key = self.query_norm(query), self.key_norm(key)
        if rotary is not None:
            query, key = rotary(query), rotary(key)
        mixed = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, heads, N, head_dim) -> (B, N, D)
