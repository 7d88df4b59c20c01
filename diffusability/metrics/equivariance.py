"""Affine equivariance: does encoding commute with rotation, flipping and scaling?

"Diffusing in the Right Space" (arXiv 2606.03578) compares Enc(T x) with T Enc(x) for rotation and
scale and prints no formula; the transforms are those of EQ-VAE (Kouzelis et al., arXiv 2502.09509),
and the two discrepancies below are this library's choice.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusability.errors import MeasurementError, StudyError
from diffusability.metrics.latent_set import ImageVariation
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import (
    influence_stderr,
    mean_influences,
    ratio_influences,
)

_SMALLEST = torch.finfo(torch.float64).tiny  # only a token of zeros has no direction
Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Transform:
    """A geometric transform of images and of latents.

    Attributes:
        family: "rotate", "flip" or "scale"; the value of a family is the mean of its members.
        amount: degrees counter-clockwise (90, 180, 270), 0 for the horizontal flip, or the factor
            of the scale in (0, 1).
    """

    family: str
    amount: float

    def __post_init__(self) -> None:
        """Refuse unknown transforms."""
        known = {
            "rotate": self.amount in (90, 180, 270),
            "flip": self.amount == 0,
            "scale": 0 < self.amount < 1,
        }
        if not known.get(self.family, False):
            raise MeasurementError(
                f"unknown transform {self.family} {self.amount}; use rotate 90, 180 or 270, "
                "flip 0, or scale with a factor in (0, 1)"
            )

    @property
    def name(self) -> str:
        """Name of the cell, for example ``rotate90``, ``flip``, ``scale0.5``."""
        return self.family if self.family == "flip" else f"{self.family}{self.amount:g}"

    def apply(self, grid: Tensor) -> Tensor:
        """Return the transform of (N, C, H, W) images or latents.

        Scaling is bilinear with ``align_corners=False`` and no antialias, as in EQ-VAE.

        Raises:
            MeasurementError: if the scaled height or width is not whole.
        """
        if self.family == "rotate":
            return torch.rot90(grid, int(self.amount) // 90, dims=(2, 3))
        if self.family == "flip":
            return grid.flip(3)
        size = [side * self.amount for side in grid.shape[2:]]
        if any(side != round(side) or side < 1 for side in size):
            raise MeasurementError(
                f"{tuple(grid.shape[2:])} scaled by {self.amount:g} is {size[0]:g} x {size[1]:g}, "
                "not whole"
            )
        return F.interpolate(
            grid, size=[round(side) for side in size], mode="bilinear", align_corners=False
        )


DEFAULT_TRANSFORMS = (
    Transform("rotate", 90),
    Transform("rotate", 180),
    Transform("rotate", 270),
    Transform("flip", 0),
    Transform("scale", 0.5),
    Transform("scale", 0.75),
)


@dataclass
class _Cell:
    """Per-image statistics of one transform, in the order of the batches."""

    transform: Transform
    error: list[Tensor] = field(default_factory=list)  # (B,) |T z - Enc(T x)|^2 per value
    mean: list[Tensor] = field(default_factory=list)  # (B, C) means of Enc(T x)
    square: list[Tensor] = field(default_factory=list)  # (B,) mean of Enc(T x)^2
    cosine: list[Tensor] = field(default_factory=list)  # (B,) 1 - mean token cosine
    not_applicable: str = ""

    def add(self, expected: Tensor, actual: Tensor) -> None:
        """Add a batch of T Enc(x) and Enc(T x), each (B, C, h, w)."""
        a, b = expected.to(torch.float64), actual.to(torch.float64)
        self.error.append((a - b).square().flatten(1).mean(dim=1))
        self.mean.append(b.mean(dim=(2, 3)))
        self.square.append(b.square().flatten(1).mean(dim=1))
        self.cosine.append(
            1 - F.cosine_similarity(a, b, dim=1, eps=_SMALLEST).flatten(1).mean(dim=1)
        )

    def relative_error(self) -> tuple[float, Tensor]:
        """Return the relative squared error and the influence of each image on it."""
        mean, square = torch.cat(self.mean), torch.cat(self.square)  # (N, C), (N,)
        centre = mean.mean(dim=0)  # (C,)
        variance = square + (centre.square() - 2 * centre * mean).mean(dim=1)  # (N,)
        return ratio_influences(torch.cat(self.error), variance, f"{self.transform.name} error")

    def cosine_distance(self) -> tuple[float, Tensor]:
        """Return 1 - mean token cosine and the influence of each image on it."""
        return mean_influences(torch.cat(self.cosine))


def measure_equivariance(
    encode: Encode,
    batches: Iterable[Tensor],
    *,
    transforms: Sequence[Transform] = DEFAULT_TRANSFORMS,
) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Measure how far Enc(T x) is from T Enc(x), for every transform and family.

    - error: sum |T z - Enc(T x)|^2 / sum |Enc(T x) - m|^2 over images, m the mean of each channel
      over images and positions; 0 is exact, 2 is an unrelated latent of the same distribution.
    - cosine: 1 minus the mean over images and tokens of cos(T z, Enc(T x)); 0 is exact, 1 is
      unrelated.

    Args:
        encode: maps (B, 3, H, W) images to (B, C, h, w) posterior means; it must normalise per
            channel, or channels of large scale dominate. Images come in scaled and rotated sizes.
        batches: (B, 3, H, W) images, all of one size, in the range that ``encode`` takes.
        transforms: the transforms; a family's value is the mean of its members.

    Returns:
        ``equivariance.<cell>_error`` and ``equivariance.<cell>_cosine``, pure numbers, LOWER is
        better, for every transform and for every family of several transforms (under the family's
        name), with standard errors over images; and (cell, reason) for every cell that does
        not apply: a fractional size, or one that the encoder does not accept. A family with such a
        member does not apply either, because its mean would be over other transforms.

    Raises:
        MeasurementError: if there are fewer than two images, latents are not finite or do not
            vary, or the encoder fails on the images as they are.
    """
    cells = [_Cell(transform) for transform in transforms]
    count, variation = 0, ImageVariation()
    for images in batches:
        latents = encode(images)
        if latents.ndim != 4 or not bool(torch.isfinite(latents).all()):
            raise MeasurementError(
                f"equivariance: the encoder gave {tuple(latents.shape)} latents that are not "
                "finite (B, C, h, w)"
            )
        count += len(images)
        variation.add(latents)
        for cell in cells:
            if not cell.not_applicable:
                _visit(cell, encode, images, latents)
    if count < 2:
        raise MeasurementError("equivariance: a standard error needs at least two images")
    flags = variation.live_channels("kept")[1]
    measurements: list[Measurement] = []
    not_applicable: list[tuple[str, str]] = []
    for name, members in _rows(cells).items():
        reasons = [f"{c.transform.name}: {c.not_applicable}" for c in members if c.not_applicable]
        if reasons:
            not_applicable.append((name, "; ".join(reasons)))
        else:
            measurements += _measure_row(name, members, count, flags)
    return measurements, not_applicable


def _visit(cell: _Cell, encode: Encode, images: Tensor, latents: Tensor) -> None:
    """Add a batch to a cell, or note why the cell does not apply."""
    try:
        expected = cell.transform.apply(latents)
        moved = cell.transform.apply(images)
    except MeasurementError as error:
        cell.not_applicable = str(error)
        return
    try:
        actual = encode(moved)
    except (MeasurementError, StudyError, ValueError, RuntimeError) as error:
        # A fixed input size is a property of the tokenizer; any other error is a failure.
        if moved.shape == images.shape or isinstance(error, torch.OutOfMemoryError):
            raise
        cell.not_applicable = (
            f"the encoder does not accept {tuple(moved.shape[2:])} images ({error})"
        )
        return
    if actual.shape != expected.shape:
        cell.not_applicable = (
            f"the encoder gives a {tuple(actual.shape[2:])} grid for {tuple(moved.shape[2:])} "
            f"images, the transformed latent has {tuple(expected.shape[2:])}"
        )
        return
    if not bool(torch.isfinite(actual).all()):
        raise MeasurementError(f"equivariance: latents of {cell.transform.name} are not finite")
    cell.add(expected, actual)


def _rows(cells: list[_Cell]) -> dict[str, list[_Cell]]:
    """Return the cells that each metric averages: every cell alone, and families of several."""
    rows = {cell.transform.name: [cell] for cell in cells}
    for family in dict.fromkeys(cell.transform.family for cell in cells):
        members = [cell for cell in cells if cell.transform.family == family]
        if len(members) > 1:
            rows[family] = members
    return rows


def _measure_row(
    name: str, members: list[_Cell], count: int, flags: tuple[str, ...]
) -> list[Measurement]:
    """Return error and cosine of the mean of some cells, whose images are the same."""
    measurements = []
    for suffix, parts in (
        ("error", [cell.relative_error() for cell in members]),
        ("cosine", [cell.cosine_distance() for cell in members]),
    ):
        influences = torch.stack([influence for _, influence in parts]).mean(dim=0)  # (N,)
        measurements.append(
            Measurement(
                metric=f"equivariance.{name}_{suffix}",
                value=sum(value for value, _ in parts) / len(parts),
                stderr=influence_stderr(influences),
                n=count,
                higher_is_better=False,
                options={"transforms": [cell.transform.name for cell in members]},
                flags=flags,
            )
        )
    return measurements
