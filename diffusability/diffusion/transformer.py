"""Diffusion transformers on latent cells with adaLN-zero: SiT and LightningDiT.

SiT: arXiv 2401.08740. LightningDiT: the diffusion transformer of VA-VAE, arXiv 2501.01423.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusability.diffusion.network import LatentNetwork, TimestepEmbedding, modulate
from diffusability.nn import recomputation
from diffusability.nn.attention import Attention
from diffusability.nn.initialisation import draw_normal, draw_xavier, set_zero
from diffusability.nn.layers import MLP, RMSNorm, SwiGLU
from diffusability.nn.positions import RotaryPosition, position_embedding
from diffusability.study.entries.backbone import TransformerBackbone

MLP_RATIO = 4  # hidden width of the feed-forward layers, in units of the width
EMBEDDING_STD = 0.02


class Block(recomputation.Block):
    """Attention and feed-forward, each modulated and gated by the condition (adaLN-zero)."""

    def __init__(
        self,
        width: int,
        heads: int,
        norm: Callable[[int], nn.Module],
        qk_norm: Callable[[int], nn.Module],
        feed_forward: nn.Module,
    ) -> None:
        super().__init__()
        self.attention_norm = norm(width)
        self.attention = Attention(width, heads, qk_norm)
        self.feed_forward_norm = norm(width)
        self.feed_forward = feed_forward
        self.modulation = nn.Linear(width, 6 * width)

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

    def __init__(self, width: int, norm: nn.Module, out_features: int) -> None:
        super().__init__()
        self.norm = norm
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, out_features)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map tokens x (B, N, D) under condition (B, D) to (B, N, out_features)."""
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)  # (B, 1, D) each
        return self.out(modulate(self.norm(x), shift, scale))


class LatentTransformer(LatentNetwork[TransformerBackbone]):
    """Base class of SiT and LightningDiT, with a fixed position embedding."""

    position: Tensor

    def __init__(
        self, spec: TransformerBackbone, latent_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        """Build the layers on the meta device; see `LatentNetwork`."""
        super().__init__(spec, latent_shape, num_classes)
        self.patch, width = spec.patch, spec.width
        self.tokens = (self.grid[0] // spec.patch, self.grid[1] // spec.patch)
        cell = self.latent_channels * spec.patch**2
        with torch.device("meta"):
            self.patch_embedding = nn.Linear(cell, width)
            self.time_embedding = TimestepEmbedding(width)
            self.label_embedding = nn.Embedding(num_classes + 1, width)
            self.blocks = nn.ModuleList(self._block(width, spec.heads) for _ in range(spec.depth))
            self.final = FinalLayer(width, self._norm(width), cell)
        # tables depend only on the grid: they exist from the start and are not saved
        self.register_buffer("position", position_embedding(self.tokens, width), persistent=False)
        self.rotary = self._rotary(width // spec.heads)

    @staticmethod
    @abstractmethod
    def _norm(width: int) -> nn.Module:
        """Return the norm before every branch and before the final layer."""

    @abstractmethod
    def _block(self, width: int, heads: int) -> Block:
        """Return one block."""

    def _rotary(self, head_dim: int) -> RotaryPosition | None:
        """Return the rotary position of queries and keys, or None."""
        return None

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity at the noisy latents x; see `LatentNetwork.forward`."""
        condition = F.silu(self.time_embedding(t) + self.label_embedding(y))  # (B, D)
        tokens = self.patch_embedding(self._to_tokens(x)) + self.position  # (B, N, D)
        for block in self.blocks:
            tokens = block(tokens, condition, self.rotary)
        return self._to_latent(self.final(tokens, condition))

    def _to_tokens(self, x: Tensor) -> Tensor:
        """Patchify (B, C, H, W) to (B, N, C * patch * patch), row by row."""
        p, (rows, columns) = self.patch, self.tokens
        x = x.unflatten(3, (columns, p)).unflatten(2, (rows, p))  # (B, C, rows, p, columns, p)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def _to_latent(self, tokens: Tensor) -> Tensor:
        """Unpatchify (B, N, C * patch * patch) to (B, C, H, W)."""
        p, (rows, columns) = self.patch, self.tokens
        x = tokens.unflatten(2, (-1, p, p)).unflatten(1, (rows, columns))
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def fill(self, _generator: torch.Generator) -> None:
        """Recompute the position embedding."""
        self.position.copy_(position_embedding(self.tokens, self.position.shape[1]))

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw a layer's weights as in DiT.

        Xavier-uniform matrices and zero biases; N(0, 0.02²) for the label embedding and the time
        network; zero for every modulation and for the final map, so that each block starts as
        the identity and the velocity as zero (adaLN-zero).
        """
        if name.endswith("modulation") or name == "final.out":
            set_zero(layer)
        elif name.startswith(("time_embedding", "label_embedding")):
            draw_normal(layer, EMBEDDING_STD, generator)
        else:
            draw_xavier(layer, generator)


class SiT(LatentTransformer):
    """DiT blocks: LayerNorm without weights, tanh-GELU, fixed position embedding.

    Queries and keys have a LayerNorm per head, which the published SiT lacks and the study of
    latent diffusability adds (arXiv 2606.03578, Setups). The output is only the velocity, without
    channels for a variance.
    """

    @staticmethod
    def _norm(width: int) -> nn.Module:
        return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)

    def _block(self, width: int, heads: int) -> Block:
        return Block(width, heads, self._norm, nn.LayerNorm, MLP(width, MLP_RATIO * width))


class LightningDiT(LatentTransformer):
    """RMSNorm, SwiGLU and rotary positions, in addition to the fixed position embedding."""

    @staticmethod
    def _norm(width: int) -> nn.Module:
        return RMSNorm(width)

    def _block(self, width: int, heads: int) -> Block:
        return Block(width, heads, self._norm, RMSNorm, SwiGLU(width, MLP_RATIO))

    def _rotary(self, head_dim: int) -> RotaryPosition:
        return RotaryPosition(self.tokens, head_dim)
