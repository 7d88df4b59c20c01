"""EDM's sampler: its noise levels, and the Euler and Heun solvers (arXiv 2206.00364, Alg. 1, 2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.diffusion.sampler import Solver, function_evaluations
from diffusability.errors import StudyError
from diffusability.study.entries.sampling import EDMSampling

# D at one noise level for the whole batch: noisy data (B, ...) and sigma -> (B, ...)
DenoiserField = Callable[[Tensor, float], Tensor]


def sigma_grid(steps: int, options: EDMSampling) -> Tensor:
    """Return noise levels from sigma_max to sigma_min, evenly spaced in sigma^(1/rho), then 0.

    Args:
        steps: at least 2.
        options: sigma_min, sigma_max and rho.

    Returns:
        (steps + 1,) float64.

    Raises:
        StudyError: fewer than two steps.
    """
    if steps < 2:
        raise StudyError(f"sampling: EDM's levels need at least two steps, not {steps}")
    low, high, rho = options.sigma_min, options.sigma_max, options.rho
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    start, end = high ** (1 / rho), low ** (1 / rho)
    levels = (start + ramp * (end - start)) ** rho
    levels[0], levels[-1] = high, low  # exactly, without rounding error
    return torch.cat((levels, levels.new_zeros(1)))


@dataclass(frozen=True)
class Churn:
    """Noise added before each step (S_churn, S_min, S_max and S_noise of EDM).

    Attributes:
        fresh: returns standard normal noise (B, ...) for step i.
        options: S_churn over all steps (a step raises the level by at most a factor sqrt(2)), the
            levels between which noise is added, inclusive, and the noise scale.
    """

    fresh: Callable[[int], Tensor]
    options: EDMSampling

    def raised(self, sigma: float, steps: int) -> float:
        """Return the noise level after churn, for a step that starts at sigma."""
        high = math.inf if self.options.churn_max is None else self.options.churn_max
        if not self.options.churn_min <= sigma <= high:
            return sigma
        return sigma * (1 + min(self.options.churn / steps, math.sqrt(2) - 1))


@torch.no_grad()
def integrate_denoiser(
    denoise: DenoiserField,
    noise: Tensor,
    sigmas: Tensor,
    solver: Solver = "heun",
    churn: Churn | None = None,
) -> Tensor:
    """Solve dy/dsigma = (y - D(y; sigma)) / sigma from noise to data.

    N steps evaluate D N times with Euler and 2 N - 1 times with Heun, whose last step, to level 0,
    is an Euler step (see `sampler.function_evaluations`).

    Args:
        denoise: D (see `guidance.guided_denoiser`).
        noise: (B, ...) standard normal.
        sigmas: (N + 1,) decreasing levels that end in 0, see `sigma_grid`.
        solver: "euler" (order 1) or "heun" (order 2).
        churn: noise added before steps; None solves the deterministic ODE.

    Returns:
        (B, ...) samples in the dtype of the noise.

    Raises:
        StudyError: the solver is unknown.
    """
    steps, levels = len(sigmas) - 1, sigmas.tolist()
    function_evaluations(solver, steps)  # raises for an unknown solver
    y = noise * levels[0]
    for i in range(steps):
        level, following = levels[i], levels[i + 1]
        if churn is not None and (raised := churn.raised(level, steps)) > level:
            y = y + math.sqrt(raised**2 - level**2) * churn.options.churn_noise * churn.fresh(i)
            level = raised
        slope = (y - denoise(y, level)) / level
        moved = y + (following - level) * slope
        if solver == "heun" and following > 0:
            ahead = (moved - denoise(moved, following)) / following
            moved = y + (following - level) * (slope + ahead) / 2
        y = moved
    return y
