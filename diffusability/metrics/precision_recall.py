"""Precision, recall, density and coverage of generated features, by k-nearest-neighbour balls."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import require_extractor_name, require_features
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import deal_blocks, delete_block_stderr

_ROWS = 1024  # rows of a distance matrix that are held at once
_PAIR_ROWS = 128  # of these, rows whose close pairs are listed at once
_SPARE = 3  # neighbours that are looked up, in units of k
_EXACT = 2**15  # numbers whose differences are computed at once in float64, which caches hold
_LARGEST = 1e18  # length of features whose square float32 still holds
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
    centre = x.mean(dim=0)  # (D,)
    x_set, y_set = (
        _BallSet(_Samples.about(centre, z), neighbours, rows)
        for z, rows in zip((x, y), dealt, strict=True)
    )
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
class _Samples:
    """Samples as they are, and rounded to float32 about a centre that both sets share.

    Products of the rounded ones are fast. What decides is read from distances of the samples
    themselves wherever the rounding could decide otherwise, so no result depends on it.
    """

    exact: Tensor  # (N, D) float64
    rounded: Tensor  # (N, D) float32
    norms: Tensor  # (N,) float64, of the rounded ones

    @classmethod
    def about(cls, centre: Tensor, samples: Tensor) -> "_Samples":
        """Round samples (N, D) about a centre (D,).

        Raises:
            MeasurementError: the squares of their lengths are too large for float32.
        """
        rounded = (samples - centre).to(torch.float32)
        norms = rounded.to(torch.float64).norm(dim=1)
        if not float(norms.max()) < _LARGEST:
            raise MeasurementError(f"features reach a length of {float(norms.max()):.2g}")
        return cls(samples, rounded, norms)

    def __len__(self) -> int:
        return len(self.exact)

    def squares(self, rows: slice, others: "_Samples") -> tuple[Tensor, Tensor]:
        """Return squared distances (rows, M) in float32, and (rows,) how far any may be off."""
        a, b = self.norms[rows, None], others.norms
        with _whole_float32():
            products = self.rounded[rows] @ others.rounded.T  # (rows, M)
        found = a.square().float() - 2 * products + b.square().float()
        # sums of D products, in any order, and the rounding of samples and of what is added
        share = (self.exact.shape[1] + 16) * 2.0**-24
        return found, share * (a[:, 0] + b.amax()).square()

    def exact_squares(self, own: Tensor, others: "_Samples", theirs: Tensor) -> Tensor:
        """Return (P,) squared distances in float64 of pairs, given by their numbers in the sets."""
        pairs = max(1, _EXACT // self.exact.shape[1])
        parts = [
            torch.linalg.vector_norm(self.exact[i] - others.exact[j], dim=1)
            for i, j in zip(own.split(pairs), theirs.split(pairs), strict=True)
        ]
        return torch.cat(parts).square()


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Multiply in float32 of 24 bits, whatever else (TF32) the process allows."""
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)


@dataclass
class _BallSet:
    """Samples with their balls' squared radii, for each block left out and (last) for none."""

    samples: _Samples
    neighbours: int
    rows: list[Tensor]  # which samples are in each block

    def __post_init__(self) -> None:
        device, self.blocks = self.samples.exact.device, len(self.rows)
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
        """Return (blocks + 1, N) squared radii."""
        samples, count = self.samples, len(self.samples)
        radii = samples.exact.new_empty(self.blocks + 1, count)
        # enough for k neighbours outside of any one block, but for rare rows
        wanted = min(count - 1, _SPARE * self.neighbours)
        for start in range(0, count, _ROWS):
            squares, error = samples.squares(slice(start, start + _ROWS), samples)  # (rows, N)
            own = torch.arange(len(squares), device=squares.device)
            squares[own, own + start] = torch.inf  # not its own neighbour
            rounded = squares.topk(wanted, dim=1, largest=False)  # (rows, wanted)
            pairs = (own + start).repeat_interleave(wanted), rounded.indices.flatten()
            distance = samples.exact_squares(pairs[0], samples, pairs[1]).view(-1, wanted)
            near, order = distance.sort(dim=1)  # (rows, wanted)
            indices = rounded.indices.gather(1, order)
            # the least that any sample beyond those that were looked up can be away
            beyond = rounded.values[:, -1] - error if wanted < count - 1 else torch.inf
            for left_out, kept in enumerate(self.kept):
                rank = kept[indices].cumsum(dim=1)  # (rows, wanted), among the kept ones
                place = (rank < self.neighbours).sum(dim=1, keepdim=True)  # (rows, 1), of the k-th
                found = near.gather(1, place.clamp(max=wanted - 1))[:, 0]  # (rows,)
                for row in ((place[:, 0] == wanted) | (found >= beyond)).nonzero()[:, 0].tolist():
                    found[row] = self._radius(start + row, kept)
                radii[left_out, start : start + _ROWS] = found
        return radii

    def _radius(self, number: int, kept: Tensor) -> Tensor:
        """Return the squared radius of one sample from its distances to all kept others."""
        others = kept.clone()
        others[number] = False
        theirs = others.nonzero()[:, 0]
        own = torch.full_like(theirs, number)
        distance = self.samples.exact_squares(own, self.samples, theirs)
        return distance.kthvalue(self.neighbours).values


def _statistics(real: _BallSet, generated: _BallSet, neighbours: int) -> Tensor:
    """Return (4, blocks + 1): the four statistics with each block, and last with none, left out."""
    in_real = torch.zeros_like(generated.radii)  # (blocks + 1, M) real balls around each
    covering = torch.zeros_like(real.radii)  # (blocks + 1, N) generated samples in the ball of each
    recalling = torch.zeros_like(real.radii)  # (blocks + 1, N) generated balls around each
    widest = generated.radii.amax(dim=0)  # (M,), with whatever block left out
    for start in range(0, len(real.samples), _ROWS):
        squares, error = real.samples.squares(slice(start, start + _ROWS), generated.samples)
        for offset in range(0, len(squares), _PAIR_ROWS):
            part = squares[offset : offset + _PAIR_ROWS]  # (rows, M)
            rows = slice(start + offset, start + offset + len(part))
            # few pairs are in a ball of the other; all else is done for these alone
            within = torch.maximum(real.radii[:, rows].amax(dim=0)[:, None], widest)  # (rows, M)
            spare = error[offset : offset + _PAIR_ROWS, None]  # (rows, 1)
            i, j = (part <= within + spare).nonzero(as_tuple=True)  # (P,) each
            apart, doubt, i = part[i, j].double(), spare[i, 0], i + rows.start  # (P,) each
            limits = torch.cat((real.radii[:, i], generated.radii[:, j]))  # (2 (blocks + 1), P)
            close = ((limits - apart).abs() <= doubt).any(dim=0).nonzero()[:, 0]
            if len(close):
                apart[close] = real.samples.exact_squares(i[close], generated.samples, j[close])
            pair = real.kept[:, i] & generated.kept[:, j]  # (blocks + 1, P)
            inside, recalled = ((apart <= limits).unflatten(0, (2, -1)) & pair).to(apart.dtype)
            in_real.index_add_(1, j, inside)
            covering.index_add_(1, i, inside)
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
