"""Norms and feed-forward layers that several networks share."""

import torch.nn.functional as F
from torch import Tensor, nn

MAXIMUM_GROUPS = 32
CHANNELS_PER_GROUP = 4  # of the first level at full width: 128 channels in 32 groups


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the group norm of the convolutional networks, eps 1e-6.

    Groups: the largest divisor of ``channels`` that is at most 32 and leaves at least four
    channels in a group. That is 32 at every level of the full width; a narrow network gets fewer
    groups rather than groups of one channel, which would erase each channel's image mean.
    """
    limit = max(1, min(MAXIMUM_GROUPS, channels // CHANNELS_PER_GROUP))
    groups = next(count for count in range(limit, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm, eps 1e-6, with its weight in the precision of the input.

    Under bfloat16 autocast a float32 weight would prevent the use of the fused kernel.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., width) over its last axis; same shape and dtype."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def linear_parts(layer: nn.Linear, x: Tensor, parts: int) -> list[Tensor]:
    """Apply a linear layer as `parts` products, each with its own contiguous output.

    Equal to splitting the output of `layer`, and faster in training: the outputs are contiguous,
    and the backward pass adds gradients of the narrow input instead of concatenating those of the
    wide output.

    Args:
        layer: linear map from D to parts * E.
        x: (..., D).
        parts: number of equal parts of the output.

    Returns:
        `parts` tensors (..., E).
    """
    rows = layer.out_features // parts
    weights, biases = layer.weight.split(rows), layer.bias.split(rows)
    return [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


class SwiGLU(nn.Module):
    """W₃(silu(W₁x) ∘ W₂x) (Shazeer, arXiv 2002.05202).

    The hidden width is 2/3 of an MLP's, so three matrices have as many weights as its two.
    """

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        """Create the layers.

        Args:
            width: channels of a token.
            ratio: hidden width of the MLP with equally many weights, in units of width.
        """
        super().__init__()
        hidden = int(2 / 3 * ratio * width)
        self.hidden = nn.Linear(width, 2 * hidden)  # W₁ and W₂
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, N, D) to (B, N, D), token by token."""
        gate, value = linear_parts(self.hidden, x, 2)  # (B, N, hidden) each
        return self.out(F.silu(gate) * value)


class MLP(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, N, D) to (B, N, D), token by token."""
        return self.out(F.gelu(self.hidden(x), approximate="tanh"))
