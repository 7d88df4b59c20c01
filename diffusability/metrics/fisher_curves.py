"""Fisher curves as they are kept and compared: gains, their shares, deviations from pixel space.

The first axis of replicated tensors has R = 1 + B rows, for all images (or Monte-Carlo draws), then
without each of B blocks of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NO_RATE = 1e-9  # MMSE rate of all dimensions


@dataclass(frozen=True)
class Curves:
    """Gains of one space at V noise variances, by estimator.

    Attributes:
        gains: (R, V, 2) E tr G and E|G|_F^2.
        doubtful: (V,) bool, whether the data are too few at this noise variance.
        bounds: (V, 2) least and most E tr G of any distribution, from the empirical measure.
    """

    gains: Mapping[str, Tensor]
    doubtful: Mapping[str, Tensor]
    bounds: Tensor | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; float64 survives the round trip exactly."""
        parts = {"gains": self.gains, "doubtful": self.doubtful}
        return {name: {k: t.tolist() for k, t in part.items()} for name, part in parts.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Curves":
        """Return the curves that ``to_json`` wrote, without bounds."""
        gains = {k: torch.tensor(x, dtype=torch.float64) for k, x in values["gains"].items()}
        return cls(gains, {k: torch.tensor(x) for k, x in values["doubtful"].items()})


@dataclass(frozen=True)
class PixelCurves:
    """Fisher curves of images, which latents deviate from.

    Attributes:
        dim: D. variance: total variance of an image, for values in [-1, 1].
        sizes: (B,) images of each block. v: noise variances of the curves.
        seed: of every random draw; latents take the same, so that equal spaces have equal curves.
        scaled: at v times the mean variance of a pixel. zscored: of z-scored channels, at v.
    """

    dim: int
    variance: float
    sizes: Tensor
    v: tuple[float, ...]
    seed: int
    scaled: Curves
    zscored: Curves

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain = {name: getattr(self, name) for name in ("dim", "variance", "seed")}
        plain |= {"sizes": self.sizes.tolist(), "v": list(self.v)}
        return plain | {name: getattr(self, name).to_json() for name in ("scaled", "zscored")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PixelCurves":
        """Return the curves that ``to_json`` wrote."""
        return cls(
            dim=values["dim"],
            variance=values["variance"],
            sizes=torch.tensor(values["sizes"]),
            v=tuple(values["v"]),
            seed=values["seed"],
            scaled=Curves.from_json(values["scaled"]),
            zscored=Curves.from_json(values["zscored"]),
        )


def shares(gains: Tensor, dim: int) -> Tensor:
    """Return v FI / n, v^2 FIR / n and MMSE rate / n (..., 3) of gains (..., 2) in n dimensions."""
    trace, square = (gains / dim).unbind(-1)
    return torch.stack((1 - trace, 1 - 2 * trace + square, square), dim=-1)


def curve_deviations(pixel: Tensor, latent: Tensor, pixel_dim: int, latent_dim: int) -> Tensor:
    """Return the deviations of a curve from that of pixel space at the same noise variances.

    Args:
        pixel: (..., 3) v FI / D, v^2 FIR / D and MMSE rate / D of the data in D dimensions.
        latent: (..., 3) the same of the latents in d dimensions.
        pixel_dim: D. latent_dim: d.

    Returns:
        (..., 5) in the order of ``fisher.deviation.DEVIATIONS``, >= 0 and 0 where nothing changes:
        |J_D/D - J_d/d| / (J_D/D); |F_D - F_d| / F_D, v^2 |F_D - F_d| / D and
        |F_D/D - F_d/d| / (F_D/D) (see ``FirDeviation``); |R_D - R_d| / R_D of the MMSE rate.
    """
    dims = latent_dim / pixel_dim
    fi, fir = (latent[..., :2] / pixel[..., :2]).unbind(-1)
    # a rate of zero on both sides is no deviation
    rate, of_pixels = (
        (n * x[..., 2]).clamp(min=_NO_RATE) for n, x in ((latent_dim, latent), (pixel_dim, pixel))
    )
    scaled = pixel[..., 1] - dims * latent[..., 1]
    gaps = (fi - 1, dims * fir - 1, scaled, fir - 1, rate / of_pixels - 1)
    return torch.stack(gaps, dim=-1).abs()
