"""The skeleton that SiT and LightningDiT share: a transformer on latent cells with adaLN-zero."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusability.diffusion.layers import (
    Attention,
    Embedding,
    Linear,
    NormLayer,
    RotaryPosition,
    TimestepEmbedding,
    fill_normal,
    fill_xavier,
    modulate,
    position_embedding,
)
from diffusability.errors import StudyError
from diffusability.study.backbone import PUBLISHED_SIZES

# constructor arguments of the published sizes: SiT(..., **SIZES["B"])
SIZES = {
    name: {"width": width, "depth": depth, "heads": heads}
    for name, (width, depth, heads) in PUBLISHED_SIZES.items()
}


class Block(nn.Module):
    """Attention and feed-forward, each modulated and gated by the condition (adaLN-zero)."""

    def __init__(
        self,
        width: int,
        heads: int,
        norm: NormLayer,
        qk_norm: NormLayer | None,
        feed_forward: nn.Module,
    ) -> None:
        super().__init__()
        self.attention_norm = norm(width)
        self.attention = Attention(width, heads, qk_norm)
        self.feed_forward_norm = norm(width)
        self.feed_forward = feed_forward
        self.modulation = Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, rotary: RotaryPosition | None) -> Tensor:
        """Return the tokens after this block.

        Args:
            x: (B, N, D) tokens.
            condition: (B, D) activated embedding of time and class.
            rotary: rotary position of the network, or None.

        Returns:
            (B, N, D); equal to x while the modulation is zero.
        """
        parts = self.modulation(condition)[:, None].chunk(6, dim=-1)  # 6 x (B, 1, D)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
        branch = self.attention(modulate(self.attention_norm(x), shift_a, scale_a), rotary)
        x = torch.addcmul(x, gate_a, branch)  # (B, N, D)
        branch = self.feed_forward(modulate(self.feed_forward_norm(x), shift_f, scale_f))
        return torch.addcmul(x, gate_f, branch)  # (B, N, D)


class FinalLayer(nn.Module):
    """Modulated norm and the linear map from tokens back to latent cells."""

    def __init__(self, width: int, norm: NormLayer, out_features: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.modulation = Linear(width, 2 * width)
        self.out = Linear(width, out_features)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map tokens x (B, N, D) under condition (B, D) to (B, N, out_features)."""
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)  # (B, 1, D) each
        return self.out(modulate(self.norm(x), shift, scale))


class LatentTransformer(nn.Module):
    """A network on latents, conditioned on time (or EDM's noise level) and class.

    What the arguments and the answer of `forward` mean is flow matching's; EDM gives it
    c_in y and ln(sigma) / 4 instead (`edm.precondition`).

    Args:
        latent_channels: channels C of the latent.
        grid: (H, W) of the latent, in cells.
        num_classes: classes; the label `num_classes` is the null class of guidance.
        width: channels of a token; a multiple of 4 x heads.
        depth: blocks.
        heads: attention heads.
        patch: latent cells per token along one side; divides H and W.
        qk_norm: normalise queries and keys.
        mlp_ratio: hidden width of the feed-forward layer, in units of width.
        generator: draws the weights; None for a fresh generator of seed 0.

    Raises:
        StudyError: the sizes do not divide one another as stated.
    """

    position: Tensor

    def __init__(
        self,
        latent_channels: int,
        grid: tuple[int, int],
        num_classes: int,
        width: int,
        depth: int,
        heads: int,
        patch: int = 1,
        qk_norm: bool = True,
        mlp_ratio: float = 4,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(grid, width, heads, patch)
        self.latent_channels, self.grid, self.num_classes = latent_channels, grid, num_classes
        self.patch = patch
        self.tokens = (grid[0] // patch, grid[1] // patch)
        cell = latent_channels * patch**2
        self.patch_embedding = Linear(cell, width)
        self.register_buffer("position", position_embedding(self.tokens, width), persistent=False)
        self.time_embedding = TimestepEmbedding(width)
        self.label_embedding = Embedding(num_classes + 1, width)
        self.rotary = self._rotary(width // heads)
        self.blocks = nn.ModuleList(
            self._block(width, heads, qk_norm, mlp_ratio) for _ in range(depth)
        )
        self.final = FinalLayer(width, self._norm, cell)
        self.initialise(generator or torch.Generator().manual_seed(0))

    @staticmethod
    @abstractmethod
    def _norm(width: int) -> nn.Module:
        """Return the norm in front of every branch and of the final layer."""

    @abstractmethod
    def _block(self, width: int, heads: int, qk_norm: bool, mlp_ratio: float) -> Block:
        """Return one block."""

    def _rotary(self, head_dim: int) -> RotaryPosition | None:
        """Return the rotary position of queries and keys, or None."""
        return None

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity at the noisy latents x.

        Args:
            x: (B, C, H, W) latents on the path.
            t: (B,) time in [0, 1], 0 noise and 1 data.
            y: (B,) int64 labels in [0, num_classes]; num_classes is the null class.

        Returns:
            (B, C, H, W) velocity, latent units per unit of time, from noise towards data.
        """
        condition = F.silu(self.time_embedding(t) + self.label_embedding(y))  # (B, D)
        tokens = self.patch_embedding(self._to_tokens(x)) + self.position  # (B, N, D)
        for block in self.blocks:
            tokens = block(tokens, condition, self.rotary)
        return self._to_latent(self.final(tokens, condition))

    def _to_tokens(self, x: Tensor) -> Tensor:
        """Cut (B, C, H, W) into (B, N, C * patch * patch), row by row."""
        p, (rows, columns) = self.patch, self.tokens
        x = x.unflatten(3, (columns, p)).unflatten(2, (rows, p))  # (B, C, rows, p, columns, p)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def _to_latent(self, tokens: Tensor) -> Tensor:
        """Put (B, N, C * patch * patch) back to (B, C, H, W)."""
        p, (rows, columns) = self.patch, self.tokens
        x = tokens.unflatten(2, (-1, p, p)).unflatten(1, (rows, columns))
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every weight anew and refill the fixed tables.

        Xavier-uniform matrices and zero biases; N(0, 0.02) for the label embedding and the time
        network; zero for every modulation and for the final map, so that each block starts as
        the identity and the velocity as zero (adaLN-zero). Draws happen on the generator's
        device, in the order of the modules: the same seed gives the same weights anywhere.

        Args:
            generator: source of all randomness.
        """
        for name, module in self.named_modules():
            if isinstance(module, RotaryPosition):
                module.reset_buffers()
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()
            elif isinstance(module, Embedding):
                fill_normal(module.weight, 0.02, generator)
            elif isinstance(module, Linear):
                module.bias.zero_()
                if name.endswith("modulation") or name == "final.out":
                    module.weight.zero_()
                elif name.startswith("time_embedding"):
                    fill_normal(module.weight, 0.02, generator)
                else:
                    fill_xavier(module.weight, generator)
        self.position.copy_(position_embedding(self.tokens, self.position.shape[1]))


def _check_sizes(grid: tuple[int, int], width: int, heads: int, patch: int) -> None:
    if width % (4 * heads) != 0:
        raise StudyError(
            f"backbone: width {width} is not a multiple of 4 x heads ({4 * heads}); a head "
            "carries a two-dimensional position. Choose another width or number of heads."
        )
    if grid[0] % patch or grid[1] % patch:
        raise StudyError(
            f"backbone: patch {patch} does not divide the latent grid {grid[0]} x {grid[1]}. "
            "Choose a patch that divides both."
        )
