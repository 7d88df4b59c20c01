"""Exact nearest neighbours of flattened latents, in blocks, by cosine or Euclidean distance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from diffusability.data.images import Rows
from diffusability.errors import MeasurementError

Distance = Literal["cosine", "l2"]

_SPARE = 8  # candidates kept beyond K, so that rounding does not drop a true neighbour
_REFINE_BYTES = 256 * 2**20
_QUERY_BLOCKS = 4  # blocks of queries in one product


@dataclass(frozen=True, eq=False)
class NeighbourTable:
    """The K nearest pool latents of every query, nearest first; cache one per tokenizer.

    Attributes:
        indices: (N, K) int64 positions in the pool.
        distances: (N, K) float64, 1 - cosine or Euclidean distance, ascending.
        mean_squared_differences: (N, K) float64, squared difference per latent dimension.
        distance: "cosine" or "l2".
        same_class: whether neighbours were restricted to the query's class.
    """

    indices: Tensor
    distances: Tensor
    mean_squared_differences: Tensor
    distance: Distance
    same_class: bool

    def cpu(self) -> "NeighbourTable":
        """Return the table on the CPU."""
        return replace(
            self,
            indices=self.indices.cpu(),
            distances=self.distances.cpu(),
            mean_squared_differences=self.mean_squared_differences.cpu(),
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the arrays as tensors for a safetensors file."""
        return {
            "indices": self.indices.contiguous(),
            "distances": self.distances.contiguous(),
            "mean_squared_differences": self.mean_squared_differences.contiguous(),
        }

    def to_metadata(self) -> dict[str, str]:
        """Return the other fields as metadata for a safetensors file."""
        return {"distance": self.distance, "same_class": str(self.same_class).lower()}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> "NeighbourTable":
        """Return the table that ``to_tensors`` and ``to_metadata`` stored."""
        distance: Distance = "l2" if metadata["distance"] == "l2" else "cosine"
        return cls(
            tensors["indices"],
            tensors["distances"],
            tensors["mean_squared_differences"],
            distance,
            metadata["same_class"] == "true",
        )


def nearest_neighbours(
    queries: Tensor,
    pool: Rows,
    *,
    neighbours: int,
    distance: Distance = "cosine",
    query_labels: Tensor | None = None,
    pool_labels: Tensor | None = None,
    exclude_self: bool | Tensor = False,
    block_size: int = 4096,
) -> NeighbourTable:
    """Find the exact K nearest pool latents of every query.

    Blocks of matrix products in the queries' precision (float32 at least) find K + 8 candidates;
    their distances are then computed directly in float64, so that near-ties are ordered as in a
    full float64 search.

    Args:
        queries: (N, ...) latents, flattened to vectors; the search runs on their device.
        pool: (M, ...) latents of the same shape, any device or on disk (blocks are moved).
        neighbours: K.
        distance: "cosine" (1 - cosine similarity) or "l2".
        query_labels: (N,) classes; with ``pool_labels``, restricts neighbours to the same class.
        pool_labels: (M,) classes.
        exclude_self: no query is its own neighbour. True: the pool is the queries in the same
            order; (N,) int64: where in the pool each query is, -1 where it is not in it.
        block_size: rows of the pool that one product compares with four times as many queries.
            The pool is read once, whatever the number of queries.

    Returns:
        The table, on the queries' device.

    Raises:
        MeasurementError: if shapes disagree, values are not finite, a latent is zero (cosine), or
            a query has fewer than K neighbours to choose from.
    """
    _check_shapes(queries, pool, distance)
    for rows in torch.arange(len(queries)).split(block_size):
        _check("queries", queries[rows].flatten(1), distance)
    if (query_labels is None) != (pool_labels is None):
        raise MeasurementError("same-class neighbours need the labels of queries and of the pool")
    own = _own_rows(exclude_self, len(queries), len(pool))
    search = _Search(queries.flatten(1), pool, neighbours, distance, own)
    groups = _groups(queries, pool, query_labels, pool_labels)
    found = [search.run(*group, block_size) for group in groups]
    order = torch.cat([rows for rows, _ in groups]).argsort().to(queries.device)
    indices, distances, squared = (torch.cat(part)[order] for part in zip(*found, strict=True))
    return NeighbourTable(indices, distances, squared, distance, query_labels is not None)


@dataclass
class _Search:
    """The search within given rows of queries and pool."""

    queries: Tensor  # (N, d)
    pool: Rows  # (M, ...), d values each
    neighbours: int
    distance: Distance
    own: Tensor  # (N,) where in the pool each query is, -1: nowhere, or it may be its own neighbour

    def __post_init__(self) -> None:
        self.precision = torch.promote_types(self.queries.dtype, torch.float32)
        # A common offset of all latents would cost the products precision.
        self.centre = self.queries[:1024].to(self.precision).mean(dim=0)

    def run(
        self, query_rows: Tensor, pool_rows: Tensor, block_size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (n, K) pool indices, distances and mean squared differences."""
        available = len(pool_rows) - int((self.own[query_rows] >= 0).any())
        if available < self.neighbours:
            raise MeasurementError(
                f"{self.neighbours} neighbours were requested, but only {available} pool latents "
                f"are available for query {int(query_rows[0])}; lower the number, "
                "enlarge the pool or lift the same-class restriction"
            )
        blocks = query_rows.split(_QUERY_BLOCKS * block_size)
        candidates = self._candidates(blocks, pool_rows, block_size)
        results = [self._refine(*pair) for pair in zip(blocks, candidates, strict=True)]
        indices, distances, squared = (torch.cat(part) for part in zip(*results, strict=True))
        return indices, distances, squared

    def _candidates(
        self, blocks: Sequence[Tensor], pool_rows: Tensor, block_size: int
    ) -> list[Tensor]:
        """Return (n, <= K + 8) pool indices that hold the K nearest, for every block of queries."""
        device = self.queries.device
        queries = [self._prepared(self.queries[rows]) for rows in blocks]  # (n, d) each
        best = [
            (
                torch.zeros((len(rows), 0), dtype=self.precision, device=device),
                torch.zeros((len(rows), 0), dtype=torch.int64, device=device),
            )
            for rows in blocks
        ]
        for part in pool_rows.split(block_size):
            vectors = self._of_pool(part)  # (m, d)
            _check("pool", vectors, self.distance)
            block, part = self._prepared(vectors), part.to(device)
            for k, (rows, query) in enumerate(zip(blocks, queries, strict=True)):
                best[k] = self._closer(best[k], rows, query, block, part)
        return [index for _, index in best]

    def _closer(
        self, best: tuple[Tensor, Tensor], rows: Tensor, query: Tensor, block: Tensor, part: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return scores and pool indices of the closest so far and in a block of the pool.

        Args:
            best: (n, <= K + 8) each. rows: (n,) and query: (n, d) of the queries.
            block: (m, d) and part: (m,) of the pool.
        """
        score = query @ block.T  # (n, m), larger is closer
        if self.distance == "l2":
            score -= block.square().sum(dim=1) / 2  # the query's own norm is the same for all
        own = self.own[rows]  # (n,)
        if bool((own >= 0).any()):
            score[own.to(score.device)[:, None] == part[None]] = -torch.inf
        score = torch.cat([best[0], score], dim=1)
        index = torch.cat([best[1], part.expand(len(rows), -1)], dim=1)
        wanted = min(self.neighbours + _SPARE, score.shape[1])
        closest, where = score.topk(wanted, dim=1)
        return closest, index.gather(1, where)

    def _of_pool(self, rows: Tensor) -> Tensor:
        """Return (m, d) vectors of the pool on the queries' device."""
        return self.pool[rows].to(self.queries.device).flatten(1)

    def _prepared(self, latents: Tensor) -> Tensor:
        """Return vectors whose products order the pool: unit vectors, or centred ones for l2."""
        latents = latents.to(self.precision)
        if self.distance == "cosine":
            return torch.nn.functional.normalize(latents, dim=1, eps=0.0)
        return latents - self.centre

    def _refine(self, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Order candidates by float64 distances and keep the K nearest."""
        dimensions = self.queries.shape[1]
        step = max(1, _REFINE_BYTES // (8 * candidates.shape[1] * dimensions))
        kept = []
        for part, near in zip(rows.split(step), candidates.split(step), strict=True):
            query = self.queries[part].to(torch.float64)[:, None]  # (n, 1, d)
            vectors = self._of_pool(near.cpu().flatten()).to(torch.float64)
            other = vectors.view(*near.shape, dimensions)  # (n, candidates, d)
            squared = (query - other).square().sum(dim=2)  # (n, candidates)
            if self.distance == "cosine":
                norms = query.norm(dim=2) * other.norm(dim=2)
                distances = 1 - (query * other).sum(dim=2) / norms
            else:
                distances = squared.sqrt()
            distances[near == self.own[part].to(near.device)[:, None]] = torch.inf
            distances, where = distances.sort(dim=1, stable=True)
            where = where[:, : self.neighbours]
            mean_squared = squared.gather(1, where) / dimensions
            kept.append((near.gather(1, where), distances[:, : self.neighbours], mean_squared))
        indices, distances, mean_squared = (torch.cat(part) for part in zip(*kept, strict=True))
        return indices, distances, mean_squared


def _check_shapes(queries: Tensor, pool: Rows, distance: str) -> None:
    if queries.ndim < 2 or queries.shape[1:] != pool.shape[1:] or 0 in queries.shape + pool.shape:
        raise MeasurementError(
            f"queries {tuple(queries.shape)} and pool {tuple(pool.shape)} must be latents of one "
            "shape, at least one each"
        )
    if distance not in ("cosine", "l2"):
        raise MeasurementError(f"distance {distance!r} is neither 'cosine' nor 'l2'")


def _own_rows(exclude_self: bool | Tensor, queries: int, pool: int) -> Tensor:
    """Return the (N,) row of the pool that no query may have as its neighbour, -1: any."""
    if exclude_self is False:
        return torch.full((queries,), -1)
    own = torch.arange(queries) if exclude_self is True else exclude_self.cpu()
    if (
        (exclude_self is True and queries != pool)
        or own.shape != (queries,)
        or int(own.max()) >= pool
    ):
        raise MeasurementError(f"exclude_self: the pool ({pool}) is not the {queries} queries")
    return own


def _check(name: str, vectors: Tensor, distance: str) -> None:
    """Refuse (n, d) vectors that are not finite, or have no direction."""
    norms = vectors.double().norm(dim=1)
    if not bool(torch.isfinite(norms).all()):
        raise MeasurementError(f"{name}: latents are not finite")
    if distance == "cosine" and not bool((norms > 0).all()):
        raise MeasurementError(f"{name}: a latent of zeros has no direction; use l2")


def _groups(
    queries: Tensor, pool: Rows, query_labels: Tensor | None, pool_labels: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Return (query rows, pool rows) that are compared with each other, on the CPU."""
    if query_labels is None or pool_labels is None:
        return [(torch.arange(len(queries)), torch.arange(len(pool)))]
    query_labels, pool_labels = query_labels.cpu(), pool_labels.cpu()
    if query_labels.shape != (len(queries),) or pool_labels.shape != (len(pool),):
        raise MeasurementError(
            f"labels {tuple(query_labels.shape)} and {tuple(pool_labels.shape)} do not fit "
            f"{len(queries)} queries and {len(pool)} pool latents"
        )
    return [
        (torch.nonzero(query_labels == label)[:, 0], torch.nonzero(pool_labels == label)[:, 0])
        for label in query_labels.unique()
    ]
