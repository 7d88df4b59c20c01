"""Procedural colour images: a shape in front of a photograph, with its exact foreground mask.

Every image is a function of seed, split and index. Pixels are computed by single-precision addition
and multiplication and by table look-up, which are rounded equally on all processors, so a study has
the same images on every machine.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffusability.data.bundled import bundled_file
from diffusability.data.images import ImageSet
from diffusability.data.load import DataSource
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.entries.pixel_dataset import ShapesDataset

Loop = NDArray[np.float64]  # (K, 2) corners x, y of a closed polygon, inside the unit disc
SIDE = 256  # cells of a distance table along one side, over -EXTENT ... EXTENT
EXTENT = 1.5  # of the table, in units of the outline's radius
STEPS = 4096  # distance levels per unit: the table is integer, so all machines agree on it


def _regular(corners: int, start: float = 90.0, radius: float = 1.0) -> Loop:
    angles = np.deg2rad(start + 360.0 * np.arange(corners) / corners)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _corners(*points: tuple[float, float]) -> Loop:
    return np.array(points, dtype=np.float64)


def _star(points: int, inner: float) -> Loop:
    loop = _regular(2 * points)
    loop[1::2] *= inner
    return loop


def _crescent() -> Loop:
    outer = np.deg2rad(np.linspace(40, 320, 49))
    inner = np.deg2rad(np.linspace(305, 55, 49))
    bite = np.stack([0.38 + 0.80 * np.cos(inner), 0.80 * np.sin(inner)], axis=1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), bite])


def _heart() -> Loop:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, y + 2.5], axis=1) / 17.0


def _cross(arm: float) -> Loop:
    a = arm
    return _corners(
        (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a),
        (-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a),
    )  # fmt: skip


# name to loops; points inside an odd number of loops are foreground
OUTLINES: dict[str, tuple[Loop, ...]] = {
    "disc": (_regular(64),),
    "ring": (_regular(64), _regular(64, radius=0.55)),
    "triangle": (_regular(3),),
    "square": (_regular(4, start=45.0),),
    "bar": (_corners((1, 0.28), (-1, 0.28), (-1, -0.28), (1, -0.28)),),
    "cross": (_cross(0.3),),
    "star": (_star(5, inner=0.42),),
    "crescent": (_crescent(),),
    "heart": (_heart(),),
    "arrow": (
        _corners((0, 1), (-0.8, 0.1), (-0.3, 0.1), (-0.3, -1), (0.3, -1), (0.3, 0.1), (0.8, 0.1)),
    ),
    "elbow": (
        _corners((-0.8, 0.9), (-0.8, -0.9), (0.8, -0.9), (0.8, -0.3), (-0.2, -0.3), (-0.2, 0.9)),
    ),
    "hourglass": (
        _corners((0.8, 0.9), (-0.8, 0.9), (-0.12, 0), (-0.8, -0.9), (0.8, -0.9), (0.12, 0)),
    ),
}


def signed_distance(loops: tuple[Loop, ...], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of points (P, 2) to the nearest edge, (P,); negative inside."""
    x, y = np.ascontiguousarray(points.T)  # (P,) each
    nearest = np.full(len(points), np.inf)  # squared
    inside = np.zeros(len(points), dtype=bool)
    for loop in loops:
        for start, end in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            edge = end - start
            right, up = x - start[0], y - start[1]  # (P,) from the edge's start
            along = np.clip((right * edge[0] + up * edge[1]) / (edge**2).sum(), 0, 1)
            gap = (right - along * edge[0]) ** 2 + (up - along * edge[1]) ** 2
            nearest = np.minimum(nearest, gap)
            spans = (start[1] > y) != (end[1] > y)  # the edge crosses the point's height
            if spans.any():
                inside ^= spans & (x < start[0] + up / edge[1] * edge[0])
    return np.where(inside, -1, 1) * np.sqrt(nearest)


@cache
def distance_tables() -> NDArray[np.int16]:
    """Return the signed distances of all outlines, (12, SIDE, SIDE), in 1 / STEPS radii.

    Cell [k, i, j] is centred at y = centre(i), x = centre(j) with centres evenly over -EXTENT ...
    EXTENT.
    """
    centres = (np.arange(SIDE) + 0.5) / SIDE * 2 * EXTENT - EXTENT
    y, x = np.meshgrid(centres, centres, indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    tables = [signed_distance(loops, points) for loops in OUTLINES.values()]
    return np.round(np.stack(tables) * STEPS).astype(np.int16).reshape(-1, SIDE, SIDE)


BLOCK = 128  # images that share a random stream
RADIUS = (0.26, 0.40)  # of a shape, in image sides
SHIFT = 0.12  # largest distance of its centre from the image's, along each axis, in sides
TURN = 35.0  # largest rotation, in degrees
CONTRAST = 0.3  # minimum brightness difference of fill and background, in 0 ... 1
BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # of red, green, blue (ITU-R BT.601)
TINT = 0.15  # largest shift of a background's colour
PHOTOGRAPHS = ("images/china.jpg", "images/flower.jpg")  # those of `load_sample_images`
ZOOMS = (1, 2, 4)  # photograph pixels averaged into one pixel, along one side


class Shapes(DataSource[ShapesDataset]):
    """The shapes, drawn anew by every job."""

    def load(self) -> ImageSet:
        """Return training and validation images."""
        return load_shapes(self.spec)


def load_shapes(spec: ShapesDataset) -> ImageSet:
    """Return the training and then the validation images of a shapes dataset."""
    parts = [
        draw_shapes(spec, split, range(count))
        for split, count in (("train", spec.train), ("val", spec.val))
    ]
    images, labels, masks = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    validation = torch.zeros(len(labels), dtype=torch.bool)
    validation[spec.train :] = True
    return ImageSet(images, labels, masks, validation, spec.num_classes)


def draw_shapes(spec: ShapesDataset, split: str, indices: range) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the images of a contiguous range of indices.

    Args:
        spec: size and seed.
        split: "train" or "val"; the two share no image.
        indices: numbers of the images; any range, of any length.

    Returns:
        Images (n, 3, S, S) uint8, labels (n,) int64 (index modulo classes) and masks (n, S, S)
        bool, True where the shape covers at least half of the pixel.
    """
    first, last = indices.start // BLOCK, (indices.stop - 1) // BLOCK
    blocks = [_draw_block(spec.size, spec.seed, split, k) for k in range(first, last + 1)]
    images, labels, masks = (torch.cat(pieces) for pieces in zip(*blocks, strict=True))
    chosen = slice(indices.start - first * BLOCK, indices.stop - first * BLOCK)
    return images[chosen], labels[chosen], masks[chosen]


def _draw_block(size: int, seed: int, split: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
    random = np.random.default_rng(derive_seed("shapes", seed, split, block))
    labels = torch.arange(block * BLOCK, (block + 1) * BLOCK) % len(OUTLINES)
    coverage = _coverage(labels, size, random)  # (B, S, S)
    background = _backgrounds(size, random)  # (B, 3, S, S)
    colours = _fills(background, size, random)  # (B, 3, S, S)
    colours.sub_(background).mul_(coverage[:, None]).add_(background)
    images = colours.mul_(255).add_(0.5).to(torch.uint8)  # truncated: rounded to the nearest
    return images, labels, coverage >= 0.5


def _coverage(labels: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """Return the share of every pixel that the shape covers, (B, S, S) in 0 ... 1."""
    radius = random.uniform(*RADIUS, BLOCK) * size  # in pixels
    centre = (0.5 + random.uniform(-SHIFT, SHIFT, (2, BLOCK))) * size
    angle = np.deg2rad(random.uniform(-TURN, TURN, BLOCK))
    cells = SIDE / (2 * EXTENT) / radius  # table cells per pixel
    cos, sin = (_column(f(angle) * cells) for f in (np.cos, np.sin))  # (B, 1, 1)
    pixels = torch.arange(size, dtype=torch.float32) + 0.5
    x = pixels[None, None, :] - _column(centre[0])  # (B, 1, S)
    y = _column(centre[1]) - pixels[None, :, None]  # (B, S, 1); outlines point up
    column = (cos * x + (sin * y + SIDE / 2)).to(torch.int32).clamp_(0, SIDE - 1)  # (B, S, S)
    row = ((cos * y + SIDE / 2) - sin * x).to(torch.int32).clamp_(0, SIDE - 1)
    cell = row.mul_(SIDE).add_(column).add_((labels.int() * SIDE * SIDE)[:, None, None])
    distance = _distances().index_select(0, cell.flatten()).view_as(cell)  # in radii
    return distance.mul_(_column(-radius)).add_(0.5).clamp_(0, 1)


def _backgrounds(size: int, random: np.random.Generator) -> Tensor:
    """Return patches of photographs, (B, 3, S, S) in 0 ... 1, mirrored and tinted at random."""
    photographs = _photographs()
    which = random.integers(len(photographs), size=BLOCK)
    corner = random.random((BLOCK, 2))
    mirrored = random.random(BLOCK) < 0.5
    tint = _exact(random.uniform(-TINT, TINT, (BLOCK, 3)))[..., None, None]
    patches = np.empty((BLOCK, 3, size, size), dtype=np.uint8)
    for image in range(BLOCK):
        photograph = photographs[which[image]]  # (3, H, W)
        top, left = (corner[image] * (np.array(photograph.shape[1:]) - size + 1)).astype(int)
        patch = photograph[:, top : top + size, left : left + size]
        patches[image] = patch[:, :, ::-1] if mirrored[image] else patch
    return torch.from_numpy(patches).float().mul_(1 / 255).add_(tint).clamp_(0, 1)


def _fills(background: Tensor, size: int, random: np.random.Generator) -> Tensor:
    """Return two-colour gradients, (B, 3, S, S), brighter or darker than their backgrounds."""
    first, second = random.random((2, BLOCK, 3))
    shares = random.dirichlet((1, 1), BLOCK)  # of the gradient along x and along y
    behind = _brightness(background)  # (B,)
    away = np.where(behind < 0.5, 1.0, -1.0)
    gap = (first + second) @ BRIGHTNESS / 2 - behind  # the mean of a gradient is half way
    shift = np.where(gap * away < CONTRAST, CONTRAST * away - gap, 0.0)
    start = _exact(first + shift[:, None])[..., None, None]  # (B, 3, 1, 1)
    slopes = _exact((second - first)[..., None] * shares[:, None])  # (B, 3, 2)
    ramp = ((torch.arange(size) + 0.5) / size).float()
    across = start + slopes[..., 0, None, None] * ramp  # (B, 3, 1, S)
    down = slopes[..., 1, None, None] * ramp[:, None]  # (B, 3, S, 1)
    return (across + down).clamp_(0, 1)


def _brightness(images: Tensor) -> NDArray[np.float64]:
    """Return the brightness of (B, 3, S, S) images, (B,), from every fourth row and column."""
    sampled = images[:, :, 2::4, 2::4].double()
    # summation order may differ between machines: keep eight bits
    means = (sampled.mean(dim=(2, 3)) * 256).round() / 256
    return means.numpy() @ BRIGHTNESS


@cache
def _distances() -> Tensor:
    """Return the distance tables in radii, flattened."""
    return torch.from_numpy(distance_tables()).float().flatten() / STEPS


@cache
def _photographs() -> list[NDArray[np.uint8]]:
    """Return scikit-learn's two photographs at three zooms, each (3, H, W)."""
    found = []
    for name in PHOTOGRAPHS:
        photograph = np.array(Image.open(bundled_file(name)))  # (H, W, 3) uint8
        pixels = torch.from_numpy(photograph).double().permute(2, 0, 1)
        for zoom in ZOOMS:
            smaller = F.avg_pool2d(pixels[None], zoom)[0]
            found.append(smaller.round().to(torch.uint8).numpy())
    return found


def _column(values: NDArray[np.float64]) -> Tensor:
    """Reshape per-image numbers (B,) to (B, 1, 1)."""
    return _exact(values)[:, None, None]


def _exact(values: NDArray[np.float64]) -> Tensor:
    """Round to 2^-14: sines and logarithms may differ between processors in their last bits."""
    return torch.from_numpy((np.round(values * 2.0**14) / 2.0**14).astype(np.float32))
