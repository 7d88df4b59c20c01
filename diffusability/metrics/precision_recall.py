"""Precision, recall, density and coverage of generated features, by k-nearest-neighbour balls."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import require_extractor_name, require_features
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import deal_blocks, delete_block_stderr

_ROWS = 1024  # rows of a distance matrix that are held at once
_PAIR_ROWS = 128  # of these, rows whose close pairs are listed at once
_SPARE = 6  # neighbours that are looked up, in units of k
_NAMES = ("precision", "recall", "density", "coverage")


def measure_precision_recall(
    *,
    real: Tensor,
    generated: Tensor,
    extractor: str,
    generator: torch.Generator,
    neighbours: int = 3,
    blocks: int = 10,
    images: tuple[Tensor, Tensor] | None = None,
) -> list[Measurement]:
    """Measure precision, recall, density and coverage.

    Every sample has a ball whose radius is the Euclidean distance to its k-th nearest neighbour
    in the same set. Precision: share of generated samples in some real ball. Recall: share
    of real samples in some generated ball (Kynkäänniemi et al., arXiv 1904.06991, Eq. 1-2).
    Density: mean number of real balls that hold a generated sample, over k. Coverage: share of real
    balls that hold a generated sample (Naeem et al., arXiv 2002.09797, Eq. 3-4).
    The arguments are keyword-only, because swapped sets would silently swap precision and recall.

    Args:
        real: (N, D) features of real images.
        generated: (M, D) features of generated images.
        extractor: name of the network that made both.
        generator: CPU generator that deals both sets into blocks for the standard error; the
            values do not depend on it.
        neighbours: k.
        blocks: blocks of the jackknife; each replicate leaves out one block of both sets.
        images: (N,) and (M,) int64, which image each sample is a version of, where several samples
            are of one image: they are left out together. None: all are independent.

    Returns:
        ``generation.<precision|recall|density|coverage>_<extractor>``, pure numbers; HIGHER is
        better. Shares in [0, 1], but density, which can exceed 1.

    Raises:
        MeasurementError: if dimensions differ, values are not finite, or a set is too small for
            k neighbours in all blocks but one.
    """
    require_extractor_name(extractor)
    x = require_features(real, f"real features of {extractor}")
    y = require_features(generated, f"generated features of {extractor}").to(x.device)
    if x.shape[1] != y.shape[1]:
        raise MeasurementError(
            f"real has {x.shape[1]} features, generated {y.shape[1]}: not one extractor"
        )
    smallest = min(len(x), len(y))
    if neighbours < 1 or blocks < 2 or smallest - -(-smallest // blocks) <= neighbours:
        raise MeasurementError(
            f"{neighbours} neighbours in {blocks} blocks cannot be found among {len(x)} real and "
            f"{len(y)} generated samples"
        )
    dealt = deal_blocks((len(x), len(y)), blocks, generator, images)
    x_set, y_set = (_BallSet(z, neighbours, rows) for z, rows in zip((x, y), dealt, strict=True))
    values = _statistics(x_set, y_set, neighbours)  # (4, blocks + 1)
    sizes = x_set.block_sizes() + y_set.block_sizes()
    options = {
        "extractor": extractor,
        "neighbours": neighbours,
        "blocks": blocks,
        "real_count": len(x),
        "generated_count": len(y),
    }
    return [
        Measurement(
            metric=f"generation.{name}_{extractor}",
            value=float(row[-1]),
            stderr=delete_block_stderr(float(row[-1]), row[:-1], sizes),
            n=len(y),
            higher_is_better=True,
            options=options,
        )
        for name, row in zip(_NAMES, values, strict=True)
    ]


@dataclass
class _BallSet:
    """Samples with the radii of their balls, for each block left out and (last) for none."""

    samples: Tensor  # (N, D)
    neighbours: int
    rows: list[Tensor]  # which samples are in each block

    def __post_init__(self) -> None:
        device, self.blocks = self.samples.device, len(self.rows)
        block = torch.empty(len(self.samples), dtype=torch.int64)
        for index, part in enumerate(self.rows):
            block[part] = index
        self.block = block.to(device)  # (N,) block of each sample
        # (blocks + 1, N): the last row keeps every sample.
        self.kept = self.block[None] != torch.arange(self.blocks + 1, device=device)[:, None]
        self.radii = self._radii()

    def block_sizes(self) -> Tensor:
        """Return (blocks,) sizes."""
        return torch.bincount(self.block, minlength=self.blocks).cpu()

    def _radii(self) -> Tensor:
        radii = self.samples.new_empty(self.blocks + 1, len(self.samples))
        # enough for k neighbours outside of any one block, but for rare rows
        wanted = min(len(self.samples), _SPARE * self.neighbours)
        for start in range(0, len(self.samples), _ROWS):
            rows = slice(start, start + _ROWS)
            distance = torch.cdist(self.samples[rows], self.samples)  # (rows, N)
            here = torch.arange(len(distance), device=distance.device)
            distance[here, here + start] = torch.inf  # not its own neighbour
            near = distance.topk(wanted, dim=1, largest=False)  # (rows, wanted), ascending
            for left_out, kept in enumerate(self.kept):
                rank = kept[near.indices].cumsum(dim=1)  # (rows, wanted), among the kept ones
                place = (rank < self.neighbours).sum(dim=1, keepdim=True)  # (rows, 1), of the k-th
                few = place[:, 0] == wanted  # (rows,)
                found = near.values.gather(1, place.clamp(max=wanted - 1))[:, 0]  # (rows,)
                if few.any():
                    rest = distance[few][:, kept]
                    found[few] = rest.topk(self.neighbours, dim=1, largest=False).values[:, -1]
                radii[left_out, rows] = found
        return radii


def _statistics(real: _BallSet, generated: _BallSet, neighbours: int) -> Tensor:
    """Return (4, blocks + 1): the four statistics with each block, and last with none, left out."""
    in_real = torch.zeros_like(generated.radii)  # (blocks + 1, M) real balls around each
    covering = torch.zeros_like(real.radii)  # (blocks + 1, N) generated samples in the ball of each
    recalling = torch.zeros_like(real.radii)  # (blocks + 1, N) generated balls around each
    widest = generated.radii.amax(dim=0)  # (M,), with whatever block left out
    for start in range(0, len(real.samples), _ROWS):
        distance = torch.cdist(real.samples[start : start + _ROWS], generated.samples)
        for offset in range(0, len(distance), _PAIR_ROWS):
            part = distance[offset : offset + _PAIR_ROWS]  # (rows, M)
            rows = slice(start + offset, start + offset + len(part))
            # few pairs are in a ball of the other; all else is done for these alone
            within = torch.maximum(real.radii[:, rows].amax(dim=0)[:, None], widest)  # (rows, M)
            i, j = (part <= within).nonzero(as_tuple=True)  # (P,) each
            apart, i = part[i, j], i + rows.start  # (P,) each
            pair = real.kept[:, i] & generated.kept[:, j]  # (blocks + 1, P)
            in_ball = ((apart <= real.radii[:, i]) & pair).to(apart.dtype)  # (blocks + 1, P)
            recalled = ((apart <= generated.radii[:, j]) & pair).to(apart.dtype)
            in_real.index_add_(1, j, in_ball)
            covering.index_add_(1, i, in_ball)
            recalling.index_add_(1, i, recalled)
    covered, recalled = covering > 0, recalling > 0  # (blocks + 1, N) each
    real_count = real.kept.sum(dim=1).to(torch.float64)  # (blocks + 1,)
    generated_count = generated.kept.sum(dim=1).to(torch.float64)
    return torch.stack(
        [
            (in_real > 0).sum(dim=1) / generated_count,
            recalled.sum(dim=1) / real_count,
            in_real.sum(dim=1) / (neighbours * generated_count),
            covered.sum(dim=1) / real_count,
        ]
    ).cpu()
