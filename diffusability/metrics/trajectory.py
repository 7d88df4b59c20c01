"""Geometry of sampling trajectories: straightness, efficiency, speed along the path.

The statistics are accumulated while the solver runs, so no trajectory is ever stored.
"""

from typing import Any, Self

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import Moments

# name, unit, higher is better; in the order of the first columns of `TrajectoryMoments`
SCALARS = (
    ("trajectory.straightness", "1", True),
    ("trajectory.efficiency", "1", True),
    ("trajectory.angle", "deg", False),
)


class TrajectoryMoments(Moments):
    """Moments of (3 + M,) straightness, efficiency, angle and M length ratios of trajectories."""

    @classmethod
    def of(cls, values: Tensor) -> "TrajectoryMoments":
        """Return the moments of per-trajectory values (n, 3 + M)."""
        values = values.double()
        mean = values.mean(dim=0)
        return cls(len(values), mean, (values - mean).square().sum(dim=0))

    @property
    def steps(self) -> int:
        """Steps M of every trajectory."""
        return len(self.mean) - len(SCALARS)

    def require_comparable(self, other: Self) -> None:
        """Refuse trajectories of another number of steps."""
        if self.steps != other.steps:
            raise MeasurementError(
                f"trajectory: moments over {self.steps} and {other.steps} steps cannot be merged; "
                "sample both with the same number of steps"
            )

    @property
    def stderr(self) -> Tensor | None:
        """(3 + M,) standard errors of the means; None for a single trajectory."""
        return (self.scatter / (self.count * (self.count - 1))).sqrt() if self.count > 1 else None

    def length_ratio(self) -> tuple[Tensor, Tensor | None]:
        """Return the speed along the path (Fig. 10, arXiv 2606.03578).

        Returns:
            (M,) mean over trajectories of M ||step i|| / ||x_M - x_0||, where 1 is the constant
            speed of a straight line and closer to 1 is better; and its (M,) standard errors,
            None for a single trajectory. Within a trajectory the mean over i is 1 / efficiency.
        """
        first = len(SCALARS)
        return self.mean[first:], None if self.stderr is None else self.stderr[first:]

    def measurements(self, options: dict[str, Any] | None = None) -> list[Measurement]:
        """Return straightness, efficiency and mean angle with their standard errors.

        Args:
            options: what else changes the numbers (solver, guidance scale, timestep shift).

        Returns:
            `trajectory.straightness` in [-1, 1] and `trajectory.efficiency` in (0, 1], higher is
            better, and `trajectory.angle` in degrees, lower is better.
        """
        options = {"steps": self.steps} | (options or {})
        errors = [None] * len(SCALARS) if self.stderr is None else self.stderr.tolist()
        return [
            Measurement(name, float(self.mean[k]), errors[k], self.count, unit, higher, options)
            for k, (name, unit, higher) in enumerate(SCALARS)
        ]


class TrajectoryRecorder:
    """Accumulates the statistics of every trajectory that a solver runs.

    Pass it as `on_step` to `diffusability.diffusion.sampler.integrate`, for any number of
    batches, then read `moments`. Of each trajectory x_0 ... x_M with steps D_i = x_{i+1} - x_i,
    flattened over the whole latent:

    - straightness, the mean over i of cos(D_i, D_{i+1}) (Eq. 10, arXiv 2606.03578);
    - efficiency, ||x_M - x_0|| / sum_i ||D_i|| (Eq. 11);
    - angle, the mean over i of the angle between D_i and D_{i+1}, in degrees: straightness
      crowds near 1 as steps get smaller, the angle does not;
    - length ratios, M ||D_i|| / ||x_M - x_0|| (Fig. 10).

    Args:
        steps: steps M of every trajectory, at least 2.

    Raises:
        MeasurementError: fewer than 2 steps.
    """

    def __init__(self, steps: int) -> None:
        if steps < 2:
            raise MeasurementError(f"trajectory: straightness needs 2 steps or more, not {steps}")
        self.steps = steps
        self._moments: TrajectoryMoments | None = None
        self._start: Tensor  # (B, d) first point of the running batch
        self._direction: Tensor  # (B, d) unit vector of its latest step
        self._lengths: list[Tensor] = []  # (B,) each
        self._cosines: list[Tensor] = []  # (B,) each
        self._angles: list[Tensor] = []  # (B,) each

    @property
    def moments(self) -> TrajectoryMoments:
        """The moments of all finished batches.

        Raises:
            MeasurementError: no batch has finished.
        """
        if self._moments is None:
            raise MeasurementError("trajectory: no trajectory was recorded to its last step")
        return self._moments

    def __call__(self, i: int, x: Tensor, x_next: Tensor) -> None:
        """Record step i of the running batch.

        Args:
            i: 0 ... steps - 1, in order.
            x: (B, ...) latents before the step.
            x_next: (B, ...) latents after it.

        Raises:
            MeasurementError: a step out of order, of zero length, or not finite.
        """
        if i == 0:
            self._start = x.flatten(1).double()
            self._lengths, self._cosines, self._angles = [], [], []
        if i != len(self._lengths) or i >= self.steps:
            raise MeasurementError(
                f"trajectory: step {i} of {self.steps} came instead of step {len(self._lengths)}"
            )
        step = x_next.flatten(1).double() - x.flatten(1).double()  # (B, d)
        length = _positive_norm(step, f"step {i}")
        direction = step / length[:, None]  # (B, d)
        if i > 0:
            self._cosines.append((direction * self._direction).sum(dim=1))
            # the half-angle form keeps full precision where the cosine is close to 1
            across = (direction - self._direction).norm(dim=1)
            along = (direction + self._direction).norm(dim=1)
            self._angles.append(2 * torch.atan2(across, along))
        self._lengths.append(length)
        self._direction = direction
        if i == self.steps - 1:
            self._finish(x_next.flatten(1).double())

    def _finish(self, end: Tensor) -> None:
        """Merge the finished batch, whose last points are `end` (B, d), into the moments."""
        distance = _positive_norm(end - self._start, "the whole trajectory")  # (B,)
        lengths = torch.stack(self._lengths, dim=1)  # (B, M)
        scalars = (
            torch.stack(self._cosines).mean(dim=0),
            distance / lengths.sum(dim=1),
            torch.stack(self._angles).mean(dim=0).rad2deg(),
        )
        ratios = self.steps * lengths / distance[:, None]  # (B, M)
        values = torch.cat((torch.stack(scalars, dim=1), ratios), dim=1)
        batch = TrajectoryMoments.of(values.cpu())
        self._moments = batch if self._moments is None else self._moments.merge(batch)


def _positive_norm(vector: Tensor, what: str) -> Tensor:
    """Return the (B,) norms of (B, d), refusing zero and anything that is not finite."""
    norm = vector.norm(dim=1)
    if not bool(((norm > 0) & norm.isfinite()).all()):
        raise MeasurementError(
            f"trajectory: {what} has a length that is zero or not finite; the network is "
            "untrained or has diverged"
        )
    return norm
