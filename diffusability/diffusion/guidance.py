"""Classifier-free guidance of a velocity or of a denoiser (arXiv 2207.12598).

It acts on all channels of the latent, or on the first few: the official samplers of SiT and
LightningDiT guide three, whatever the latent.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusability.diffusion.flow import VelocityNetwork
from diffusability.errors import StudyError

# the right-hand side of the sampling equation: latents (B, C, H, W) and one time for all of them
VelocityField = Callable[[Tensor, float], Tensor]


def require_classes(labels: Tensor, num_classes: int, what: str) -> None:
    """Refuse labels outside the classes; `num_classes` would silently mean the null class.

    Args:
        labels: (B,) int64 labels.
        num_classes: number of classes.
        what: context, for the message.

    Raises:
        StudyError: a label is outside 0 ... num_classes - 1.
    """
    if not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise StudyError(
            f"{what}: labels span [{low}, {high}], outside the {num_classes} classes 0 ... "
            f"{num_classes - 1}"
        )


def guided_velocity(
    model: VelocityNetwork,
    labels: Tensor,
    null: int,
    scale: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    channels: int | None = None,
) -> VelocityField:
    """Bind labels and a guidance scale to a velocity network.

    The guided velocity is v(null) + scale (v(label) - v(null)) on the guided channels, and v(label)
    on the others. At scale 1, and at times outside the interval, the network is called once with
    the labels only; otherwise once with a doubled batch.

    Args:
        model: velocity network (x, t, y) -> v.
        labels: (B,) int64 labels, or the null class for all.
        null: the null class of the network.
        scale: guidance scale; 1 is none, 0 is unconditional.
        interval: first and last time at which guidance acts, both included; t = 0 is noise.
        channels: number of first channels that are guided; None: all.

    Returns:
        A function of latents (B, C, H, W) and time in [0, 1] that returns the velocity.

    Raises:
        StudyError: a negative scale, an interval that is not ordered within [0, 1], or a label
            outside the classes.
    """
    low, high = interval
    _check(labels, null, scale)
    if not 0 <= low <= high <= 1:
        raise StudyError(f"guidance: interval {interval} is not ordered within [0, 1]")
    nulls = torch.full_like(labels, null)

    def velocity(x: Tensor, t: float) -> Tensor:
        time = torch.full(labels.shape, t, dtype=x.dtype, device=x.device)  # (B,)
        if scale == 1 or not low <= t <= high:
            return model(x, time, labels)
        return _guided(model, x, time, labels, nulls, scale, channels)

    return velocity


def guided_denoiser(
    model: VelocityNetwork,
    labels: Tensor,
    null: int,
    scale: float = 1.0,
    channels: int | None = None,
) -> VelocityField:
    """Bind labels and a guidance scale to a denoiser D.

    D(null) + scale (D(label) - D(null)) on the guided channels, D(label) on the others. At equal y
    and sigma a velocity and a score are affine in D, so this equals guidance of those. As with
    `guided_velocity`, scale 1 calls the network once with the labels, any other scale once with a
    doubled batch.

    Args:
        model: denoiser (y, sigma, labels) -> D.
        labels: (B,) int64 labels, or the null class for all.
        null: the null class of the network.
        scale: guidance scale; 1 is none, 0 is unconditional.
        channels: number of first channels that are guided; None: all.

    Returns:
        A function of noisy latents (B, C, H, W) and sigma that returns D.

    Raises:
        StudyError: a negative scale, or a label outside the classes.
    """
    _check(labels, null, scale)
    nulls = torch.full_like(labels, null)

    def denoise(y: Tensor, sigma: float) -> Tensor:
        level = torch.full(labels.shape, sigma, dtype=y.dtype, device=y.device)  # (B,)
        if scale == 1:
            return model(y, level, labels)
        return _guided(model, y, level, labels, nulls, scale, channels)

    return denoise


def _guided(
    model: VelocityNetwork,
    x: Tensor,
    level: Tensor,
    labels: Tensor,
    nulls: Tensor,
    scale: float,
    channels: int | None,
) -> Tensor:
    both = model(torch.cat((x, x)), torch.cat((level, level)), torch.cat((labels, nulls)))
    conditional, unconditional = both.chunk(2)  # (B, C, H, W) each
    guided = torch.lerp(unconditional, conditional, scale)
    if channels is None:
        return guided
    return torch.cat((guided[:, :channels], conditional[:, channels:]), dim=1)


def _check(labels: Tensor, null: int, scale: float) -> None:
    if not bool((labels == null).all()):  # all null: unconditional
        require_classes(labels, null, "guidance")
    if scale < 0:
        raise StudyError(f"guidance: scale {scale} is negative; 1 is none, above 1 strengthens")
