"""FI in three forms, FIR and the MMSE rate of a denoiser, from one JVP per probe.

With G the Jacobian of D and r a probe of independent signs, |r|^2 = n and
E[r G r] = tr G, E|G r|^2 = |G|_F^2, symmetric or not; grad s = -(I - G) / v. So one Jacobian-vector
product gives the divergence, the FIR and the MMSE rate at once.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.fisher.denoiser import Denoiser
from diffusability.nn.attention import forward_mode_attention
from diffusability.statistics import mean_and_stderr

EXACT_DIM = (
    64  # up to this dimension the n basis vectors are affordable, and there is no probe noise
)
Quantity = Literal["score", "divergence", "held_out", "fir", "mmse_rate", "mmse"]


@dataclass(frozen=True)
class Estimate:
    """A mean over independent data and its standard error, in the unit of the quantity."""

    value: float
    stderr: float

    @classmethod
    def of(cls, values: Tensor) -> "Estimate":
        """Return the mean of independent values (N,).

        Raises:
            MeasurementError: fewer than two values.
        """
        return cls(*mean_and_stderr(values, "Fisher information", "data"))


@dataclass(frozen=True)
class FisherSamples:
    """Per-datum estimates of one denoiser at one noise variance.

    All three forms of FI have the same mean for an exact denoiser. For a learned one with
    held-out data ``held_out`` is a lower bound of the true J, J - E|s_learned - s|^2, and
    (score + held_out) / 2 = divergence in expectation for any smooth denoiser (Stein).

    Attributes:
        v: noise variance.
        dim: dimensions n of a datum.
        probes: directions behind each datum and noise; n where ``exact``.
        exact: whether the directions are a basis (no probe noise).
        score: (N,) float64, form A, |s|^2.
        divergence: (N,) form B, -div s.
        held_out: (N,) form C, (|y - x|^2 - |x - D(y)|^2) / v^2.
        fir: (N,) |grad s|_F^2.
        mmse_rate: (N,) |G|_F^2.
        mmse: (N,) |x - D(y)|^2.
    """

    v: float
    dim: int
    probes: int
    exact: bool
    score: Tensor
    divergence: Tensor
    held_out: Tensor
    fir: Tensor
    mmse_rate: Tensor
    mmse: Tensor

    def estimate(self, quantity: Quantity) -> Estimate:
        """Return the mean of a quantity over the data."""
        return Estimate.of(getattr(self, quantity))


def paired_difference(a: Tensor, b: Tensor) -> Estimate:
    """Return mean and standard error of a - b, (N,) each, made with common random numbers."""
    return Estimate.of(a - b)


def probe_directions(x: Tensor, index: int, exact: bool, generator: torch.Generator) -> Tensor:
    """Return one direction r with |r|^2 = n per datum: random signs, or sqrt(n) e_index.

    Args:
        x: (N, ...) data whose shape and dtype the directions take.
        index: which basis vector, below n.
        exact: a basis vector instead of signs.
        generator: CPU generator of the signs.
    """
    if not exact:
        signs = torch.randint(0, 2, x.shape, generator=generator, dtype=torch.int8)
        return (2 * signs - 1).to(device=x.device, dtype=x.dtype)
    basis = torch.zeros_like(x).flatten(1)
    basis[:, index] = math.sqrt(basis.shape[1])
    return basis.view_as(x)


def sample_fisher(
    denoiser: Denoiser,
    x: Tensor,
    v: float,
    *,
    seed: int,
    probes: int | Literal["exact"] = 1,
    labels: Tensor | None = None,
    draws: int = 1,
    batch_size: int = 4096,
) -> FisherSamples:
    """Evaluate a denoiser and its Jacobian at noisy data.

    The same seed gives the same noise and probes at every v and for every denoiser, which cancels
    most of the noise in differences along a curve and between models of equal dimension. The
    estimate is computed in the precision of x: pass float64 data to a float64 network for small v.

    Args:
        denoiser: D(y; v); networks in evaluation mode, deterministic.
        x: (N, ...) data, for ``held_out`` and ``mmse`` data that the denoiser was not trained on.
        v: noise variance, positive.
        seed: of noise and probes.
        probes: random directions per noisy datum, or "exact": the full Jacobian, by n directions.
        labels: (N,) labels given to the denoiser.
        draws: noise draws per datum; averaged, so data stay the independent units.
        batch_size: data at once; the result does not depend on it.

    Returns:
        Per-datum values, float64 on the CPU.

    Raises:
        MeasurementError: v, probes or draws are not positive, or "exact" meets more than 64
            dimensions.
    """
    dim = x[0].numel()
    exact = probes == "exact"
    count = dim if probes == "exact" else probes
    if not v > 0 or count < 1 or draws < 1:
        raise MeasurementError(f"v = {v}, {probes} probes and {draws} draws must all be positive")
    if exact and dim > EXACT_DIM:
        raise MeasurementError(
            f"the exact Jacobian of {dim} dimensions needs {dim} products per datum; use probes, "
            f"or at most {EXACT_DIM} dimensions"
        )
    noise_generator = torch.Generator().manual_seed(seed)
    probe_generator = torch.Generator().manual_seed(seed + 1)
    total = torch.zeros(len(x), 5, dtype=torch.float64)  # (N, quantities)
    for _ in range(draws):
        noise = torch.randn(x.shape, generator=noise_generator, dtype=x.dtype).to(x.device)
        for index in range(count):
            direction = probe_directions(x, index, exact, probe_generator)
            total += _evaluate(denoiser, x, noise, direction, v, labels, batch_size)
    square, trace, gain, error, noise_square = (total / (draws * count)).unbind(1)
    return FisherSamples(
        v,
        dim,
        count,
        exact,
        score=square,
        divergence=(dim - trace) / v,
        held_out=(v * noise_square - error) / v**2,
        fir=(dim - 2 * trace + gain) / v**2,
        mmse_rate=gain,
        mmse=error,
    )


def _evaluate(
    denoiser: Denoiser,
    x: Tensor,
    noise: Tensor,
    direction: Tensor,
    v: float,
    labels: Tensor | None,
    batch_size: int,
) -> Tensor:
    """Return (N, 5): |s|^2, r G r, |G r|^2, |x - D|^2 and |z|^2 of each datum."""
    rows = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        clean, z, r = x[part], noise[part], direction[part]
        label = None if labels is None else labels[part]
        y = clean + math.sqrt(v) * z

        def function(point: Tensor, label: Tensor | None = label) -> Tensor:
            return denoiser(point, v, label)

        with forward_mode_attention(), torch.no_grad():
            result = torch.func.jvp(function, (y,), (r,))
        mean, gain = result[0], result[1]  # (b, ...) each
        columns = (
            ((mean - y) / v, (mean - y) / v),
            (r, gain),
            (gain, gain),
            (clean - mean, clean - mean),
            (z, z),
        )
        rows.append(torch.stack([_dot(a, b) for a, b in columns], dim=1))
    return torch.cat(rows)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return (B,) inner products in float64 on the CPU."""
    return (a.to(torch.float64) * b.to(torch.float64)).flatten(1).sum(1).cpu()
