"""Fisher information, its rate and the denoising error at one noise level.

Notation of this package, after "Understanding Latent Diffusability via Fisher Geometry"
(arXiv 2604.02751): data x in R^n, noise variance v = sigma^2, y = x + sqrt(v) z, smoothed density
p_v, score s = grad log p_v(y), posterior mean D(y) = E[x|y] and its Jacobian G = Cov(x|y) / v.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from diffusability.errors import MeasurementError


@dataclass(frozen=True)
class FisherInformation:
    """The four numbers of a distribution at one noise variance.

    Attributes:
        v: noise variance sigma^2, in data units squared.
        dim: ambient dimension n.
        fi: J(v) = E|s|^2 = (n - E tr G) / v, per data unit squared (Eq. 3).
        fir: -dJ/dv = E|grad s|_F^2 = E|I - G|_F^2 / v^2, per data unit to the fourth (Eq. 4).
        mmse: E|x - D(y)|^2 = v E tr G, in data units squared (Eq. 5).
        mmse_rate: d mmse / dv = E|G|_F^2, a pure number (Eq. 6).
    """

    v: float
    dim: int
    fi: float
    fir: float
    mmse: float
    mmse_rate: float

    def __add__(self, other: "FisherInformation") -> "FisherInformation":
        """Return the information of the joint distribution of independent coordinates (the sum)."""
        if self.v != other.v:
            raise ValueError(f"noise variances {self.v} and {other.v} differ")
        return FisherInformation(
            self.v,
            self.dim + other.dim,
            self.fi + other.fi,
            self.fir + other.fir,
            self.mmse + other.mmse,
            self.mmse_rate + other.mmse_rate,
        )


def embedded(information: FisherInformation, dim: int) -> FisherInformation:
    """Return the information after an isometric embedding in more dimensions (Lemma B.1).

    Every normal direction adds 1/v to FI, 1/v^2 to FIR and nothing to the denoising error.

    Args:
        information: of the distribution in its own dimension m.
        dim: ambient dimension n >= m.
    """
    extra = dim - information.dim
    if extra < 0:
        raise ValueError(f"{information.dim} dimensions cannot be embedded in {dim}")
    v = information.v
    normal = FisherInformation(v, extra, extra / v, extra / v**2, 0.0, 0.0)
    return information + normal


def rescaled(information: FisherInformation, scale: float) -> FisherInformation:
    """Return the information of C x at noise variance C^2 v, from that of x at v.

    J_x(v) = C^2 J_Cx(C^2 v) and FIR_x(v) = C^4 FIR_Cx(C^2 v). This undoes a normalisation of
    latents, which changes their scale.

    Args:
        information: of x at v.
        scale: C, not zero.
    """
    square = scale**2
    return FisherInformation(
        information.v * square,
        information.dim,
        information.fi / square,
        information.fir / square**2,
        information.mmse * square,
        information.mmse_rate,
    )


def flow_time_of_variance(v: float) -> float:
    """Return the time in (0, 1] at which the linear path has noise variance v."""
    return 1 / (1 + math.sqrt(v))


def alpha_bar_of_variance(v: float) -> float:
    """Return abar in (0, 1] at which a variance-preserving process has noise variance v."""
    return 1 / (1 + v)


def check_variances(v: Sequence[float]) -> None:
    """Refuse noise variances that are not positive and increasing.

    Raises:
        MeasurementError: naming them.
    """
    if not v or any(a >= b for a, b in pairwise((0.0, *v))):
        raise MeasurementError(f"noise variances must be positive and increase, got {list(v)}")


def log_weights(v: Sequence[float]) -> list[float]:
    """Return the weights, of sum 1, of a mean over log v by the trapezoid rule.

    Args:
        v: increasing noise variances; a single one has weight 1.
    """
    if len(v) == 1:
        return [1.0]
    whole = math.log(v[-1] / v[0])
    before, after = (v[0], *v[:-1]), (*v[1:], v[-1])
    return [math.log(b / a) / (2 * whole) for a, b in zip(before, after, strict=True)]
