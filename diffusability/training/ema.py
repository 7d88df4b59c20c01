"""Exponential moving average of weights, also usable after short runs."""

import copy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """A copy of a module whose weights are a moving average of the trained ones.

    With a warm-up the decay of update k (1, 2, ...) is min(decay, (1 + k) / (10 + k)): early
    updates forget the random initialisation, which a decay of 0.9999 would carry through 10^5
    steps.
    """

    def __init__(self, trained: nn.Module, decay: float, warmup: bool = True) -> None:
        """Start from the module's current weights; a training changes them in place."""
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.module = copy.deepcopy(trained).eval().requires_grad_(False)
        # listed once, as walking through a network takes longer than to average a small one
        self._weights: list[Tensor] = list(trained.parameters())
        self._averages: list[Tensor] = list(self.module.parameters())
        self._buffers = list(zip(self.module.buffers(), trained.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the module's weights; buffers are copied."""
        self.updates += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - decay)
        for copied, buffer in self._buffers:
            copied.copy_(buffer)
