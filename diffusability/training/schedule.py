"""The learning rate of a step."""

import math

from diffusability.study.core.spec import TrainSpec


def learning_rate(step: int, spec: TrainSpec) -> float:
    """Return the learning rate of step 0, 1, ..., steps - 1.

    Linear warm-up reaches the peak at step `warmup`; a cosine then falls to zero at `steps`.
    """
    if step < spec.warmup:
        return spec.lr * (step + 1) / (spec.warmup + 1)
    if spec.schedule == "constant":
        return spec.lr
    progress = (step - spec.warmup) / max(1, spec.steps - spec.warmup)
    return spec.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
