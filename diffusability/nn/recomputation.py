"""Activation checkpointing: what a block computes is not kept, but computed again backwards."""

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from diffusability.errors import StudyError

KEY = "train.activation_checkpointing"


class Block(nn.Module):
    """A part of a deep network that draws no random numbers.

    While `recomputed` is set, a training step keeps only its inputs, and the backward pass
    computes it a second time (Chen et al., arXiv 1604.06174). The results are the same.
    """

    recomputed = False

    def __call__(self, *args: Any) -> Any:
        """Compute the block."""
        if self.recomputed:
            again = super().__call__
            return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False)
        return super().__call__(*args)


def recompute_blocks(network: nn.Module, recomputed: bool = True) -> list[Block]:
    """Let every `Block` of a network be computed again in the backward pass, and return them.

    Args:
        network: with blocks.
        recomputed: false lets them keep what they compute, as at first.

    Raises:
        StudyError: it has none.
    """
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    if not blocks:
        raise StudyError(
            f"{KEY}: {type(network).__name__} has no blocks to compute again; set it to false"
        )
    for block in blocks:
        block.recomputed = recomputed
    return blocks
