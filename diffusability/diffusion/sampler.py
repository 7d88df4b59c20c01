"""Sampling: the ODE solvers, and noise and labels that depend on (seed, index) only."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffusability.diffusion.guidance import VelocityField
from diffusability.errors import StudyError

Solver = Literal["euler", "heun"]
StepCallback = Callable[[int, Tensor, Tensor], None]


def function_evaluations(solver: Solver, steps: int) -> int:
    """Return the number of velocity evaluations of `integrate`.

    Args:
        solver: "euler" or "heun".
        steps: number of steps, at least 1.

    Returns:
        `steps` for Euler; 2 steps - 1 for Heun, whose last step is an Euler step.

    Raises:
        StudyError: the solver is unknown, or steps is below 1.
    """
    if solver not in ("euler", "heun"):
        raise StudyError(f"sampling: solver {solver!r} is unknown; use 'euler' or 'heun'")
    if steps < 1:
        raise StudyError(f"sampling: {steps} steps; at least 1 is needed")
    return steps if solver == "euler" else 2 * steps - 1


def time_grid(steps: int, shift: float = 1.0) -> list[float]:
    """Return the times between which the solver steps, from noise to data.

    Args:
        steps: number of steps, at least 1.
        shift: s of t -> s t / (1 + (s - 1) t); 1 is uniform, below 1 uses more steps near the
            noise (LightningDiT's published samples use 0.3).

    Returns:
        steps + 1 times, the first 0 and the last 1.

    Raises:
        StudyError: steps is below 1 or shift is not above 0.
    """
    if steps < 1 or shift <= 0:
        raise StudyError(f"sampling: needs at least 1 step ({steps}) and shift above 0 ({shift})")
    even = [i / steps for i in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]


@torch.no_grad()
def integrate(
    velocity: VelocityField,
    noise: Tensor,
    steps: int,
    solver: Solver = "euler",
    shift: float = 1.0,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Solve dx/dt = velocity(x, t) from noise at t = 0 to data at t = 1.

    The velocity is never evaluated at t = 1, which training draws with probability zero: Heun
    ends with an Euler step. This keeps the order, because the error of one step is O(1 / steps^2).

    Args:
        velocity: function of latents and time (see `guidance.guided_velocity`).
        noise: (B, C, H, W) standard normal noise.
        steps: number of steps; `function_evaluations` gives their cost.
        solver: "euler" (order 1) or "heun" (order 2).
        shift: timestep shift, see `time_grid`.
        on_step: called as on_step(i, x_i, x_next) after step i of 0 ... steps - 1.

    Returns:
        (B, C, H, W) latents.

    Raises:
        StudyError: the solver is unknown, or steps or shift are out of range.
    """
    function_evaluations(solver, steps)  # raises for an unknown solver
    times = time_grid(steps, shift)
    x = noise
    for i in range(steps):
        step = times[i + 1] - times[i]
        slope = velocity(x, times[i])
        following = x + step * slope
        if solver == "heun" and i < steps - 1:
            slope = (slope + velocity(following, times[i + 1])) / 2
            following = x + step * slope
        if on_step is not None:
            on_step(i, x, following)
        x = following
    return x


def _generator(seed: int, index: int) -> np.random.Generator:
    """Return a counter-based generator (Philox) of its own for one sample."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


def draw_noise(seed: int, indices: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Draw standard normal noise; each row depends only on seed and index.

    Each row has its own counter-based generator (Philox) with (seed, index) as the key: the
    noise is independent of batch size, order, processes and device, and streams never overlap.

    Args:
        seed: at least 0.
        indices: (B,) sample indices, each at least 0.
        shape: shape of one row, for example (C, H, W).

    Returns:
        (B, *shape) float32 on the CPU.
    """
    rows = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(rows, indices, strict=True):
        _generator(seed, index).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(rows)


def balanced_labels(indices: Sequence[int], num_classes: int) -> Tensor:
    """Return labels that give each class an equal share of any run of consecutive indices.

    Args:
        indices: (B,) sample indices, each at least 0.
        num_classes: number of classes.

    Returns:
        (B,) int64: index modulo num_classes.
    """
    return torch.as_tensor(indices, dtype=torch.int64) % num_classes


def random_labels(seed: int, indices: Sequence[int], num_classes: int) -> Tensor:
    """Draw labels uniformly; each depends only on seed and index, as `draw_noise`.

    Args:
        seed: at least 0; not that of the noise.
        indices: (B,) sample indices, each at least 0.
        num_classes: number of classes.

    Returns:
        (B,) int64.
    """
    drawn = [int(_generator(seed, index).integers(num_classes)) for index in indices]
    return torch.tensor(drawn, dtype=torch.int64)
