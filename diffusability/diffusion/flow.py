"""Flow matching on the linear path: path, velocity target, time and label draws, loss.

Time runs from noise to data: x_t = t x1 + (1 - t) x0 with noise x0 at t = 0 and data x1 at t = 1.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusability.errors import StudyError

VelocityNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Return the point x_t = t x1 + (1 - t) x0 of the linear path.

    Args:
        x0: (B, ...) noise.
        x1: (B, ...) data.
        t: (B,) time in [0, 1].

    Returns:
        (B, ...) in the dtype of the inputs.
    """
    t = t.view(-1, *[1] * (x1.ndim - 1))  # (B, 1, 1, 1)
    return t * x1 + (1 - t) * x0


def velocity_target(x0: Tensor, x1: Tensor) -> Tensor:
    """Return the velocity x1 - x0 of the linear path, from noise (B, ...) to data (B, ...)."""
    return x1 - x0


def sample_time(
    n: int, distribution: Literal["uniform", "logit-normal"], generator: torch.Generator
) -> Tensor:
    """Draw training times.

    Args:
        n: how many.
        distribution: "uniform" on [0, 1), or "logit-normal": the sigmoid of a standard normal.
        generator: source of randomness; its device is the device of the result.

    Returns:
        (n,) float32 times in [0, 1].

    Raises:
        StudyError: the distribution is unknown.
    """
    if distribution == "uniform":
        return torch.rand(n, generator=generator, device=generator.device)
    if distribution == "logit-normal":
        return torch.randn(n, generator=generator, device=generator.device).sigmoid()
    raise StudyError(
        f"training time: distribution {distribution!r} is unknown; use 'uniform' or 'logit-normal'"
    )


def drop_labels(y: Tensor, probability: float, null: int, generator: torch.Generator) -> Tensor:
    """Replace each label by the null class with the given probability.

    Args:
        y: (B,) int64 labels.
        probability: share of labels to drop, in [0, 1].
        null: the null class, `num_classes` of the network.
        generator: source of randomness, on the device of y.

    Returns:
        (B,) int64 labels; y itself is not changed.
    """
    chance = torch.rand(y.shape, generator=generator, device=generator.device)  # (B,)
    return torch.where(chance < probability, null, y)


def flow_matching_loss(
    model: VelocityNetwork,
    x1: Tensor,
    labels: Tensor,
    x0: Tensor,
    t: Tensor,
    cosine_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Return the flow-matching loss and its terms (Eq. 1, arXiv 2606.03578).

    Args:
        model: velocity network (x, t, y) -> v.
        x1: (B, C, H, W) data.
        labels: (B,) int64 labels, the null class where dropped.
        x0: (B, C, H, W) standard normal noise.
        t: (B,) time in [0, 1].
        cosine_weight: weight of the directional term of LightningDiT; 0 leaves it out.

    Returns:
        Scalars, lower is better: "mse", the mean squared error of the velocity; with a weight
        above 0 "cosine", the mean over positions of 1 - cos of the angle between predicted and
        true velocity along the channels; "total", mse + weight * cosine.
    """
    target = velocity_target(x0, x1)  # (B, C, H, W)
    # autocast may return a lower precision; compute the loss in that of the data
    prediction = model(interpolate(x0, x1, t), t, labels).to(target.dtype)
    terms = {"mse": F.mse_loss(prediction, target)}
    terms["total"] = terms["mse"]
    if cosine_weight:
        cosine = F.cosine_similarity(prediction, target, dim=1)  # (B, H, W)
        terms["cosine"] = 1 - cosine.mean()
        terms["total"] = terms["mse"] + cosine_weight * terms["cosine"]
    return terms
