"""LightningDiT: the diffusion transformer of VA-VAE (arXiv 2501.01423), on latent cells."""

from torch import nn

from diffusability.diffusion.layers import RMSNorm, RotaryPosition, SwiGLU
from diffusability.diffusion.transformer import SIZES, Block, LatentTransformer

__all__ = ["SIZES", "LightningDiT"]


class LightningDiT(LatentTransformer):
    """RMSNorm, SwiGLU and rotary position, besides the fixed position embedding.

    The hidden width of SwiGLU is 2/3 of `mlp_ratio`, so that its three matrices hold as many
    weights as the two of an MLP.
    """

    @staticmethod
    def _norm(width: int) -> nn.Module:
        return RMSNorm(width)

    def _block(self, width: int, heads: int, qk_norm: bool, mlp_ratio: float) -> Block:
        feed_forward = SwiGLU(width, int(2 / 3 * mlp_ratio * width))
        return Block(width, heads, self._norm, RMSNorm if qk_norm else None, feed_forward)

    def _rotary(self, head_dim: int) -> RotaryPosition:
        return RotaryPosition(self.tokens, head_dim)
