"""SiT: the scalable interpolant transformer (arXiv 2401.08740), on latent cells."""

from torch import nn

from diffusability.diffusion.layers import MLP
from diffusability.diffusion.transformer import SIZES, Block, LatentTransformer

__all__ = ["SIZES", "SiT"]


class SiT(LatentTransformer):
    """DiT blocks: LayerNorm without weights, tanh-GELU, fixed position embedding.

    Queries and keys are normalised by a LayerNorm over the head, which the published SiT lacks
    and the study of latent diffusability adds (arXiv 2606.03578, Setups). The output is the
    velocity alone: no second half for a variance that nothing would read.
    """

    @staticmethod
    def _norm(width: int) -> nn.Module:
        return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)

    def _block(self, width: int, heads: int, qk_norm: bool, mlp_ratio: float) -> Block:
        head_norm = nn.LayerNorm if qk_norm else None
        return Block(width, heads, self._norm, head_norm, MLP(width, int(mlp_ratio * width)))
