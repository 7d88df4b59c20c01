"""A pool of latents on disk: the same neighbours and statistics, never all of it in memory."""

import pytest
import torch
from torch import Tensor

from diffusability.latents import channel_statistics as module
from diffusability.latents.channel_statistics import channel_statistics, normalise
from diffusability.latents.mapped import ChosenLatents, MappedTensor
from diffusability.metrics.nearest_neighbours import nearest_neighbours

SHAPE = (3, 2, 2)


class Watched(MappedTensor):
    """Remember how many rows were read, and how many at once."""

    most = read = 0

    def __getitem__(self, rows: Tensor) -> Tensor:
        self.most, self.read = max(self.most, len(rows)), self.read + len(rows)
        return super().__getitem__(rows)


@pytest.fixture
def latents() -> tuple[Tensor, Watched]:
    """Latents of 230 images in memory, and as shards of 100."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(230, *SHAPE, generator=generator) * 3 + 1
    return values, Watched(list(values.split(100)), torch.float32)


def test_statistics_by_chunks_are_those_of_all(
    latents: tuple[Tensor, Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, mapped = latents
    images = torch.randperm(230)[:190]
    whole = channel_statistics(values[images])
    at_once = channel_statistics(mapped, images)
    assert (at_once.count, at_once.mean.tolist()) == (whole.count, whole.mean.tolist())
    assert torch.equal(at_once.scatter, whole.scatter)
    monkeypatch.setattr(module, "_READ_BYTES", 40 * 12 * 4)
    mapped.most = 0
    chunked = channel_statistics(mapped, images)
    assert (mapped.most, chunked.count) == (40, whole.count)
    torch.testing.assert_close(chunked.mean, whole.mean)
    torch.testing.assert_close(chunked.std, whole.std)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("same_class", [False, True])
def test_neighbours_in_a_pool_on_disk(
    latents: tuple[Tensor, Watched], distance: str, same_class: bool
) -> None:
    values, mapped = latents
    offered, asked = torch.arange(30, 230), torch.arange(30)
    statistics = channel_statistics(values[offered])
    queries, pool = normalise(values[asked], statistics), normalise(values[offered], statistics)
    classes = torch.arange(230) % 3
    options = {"neighbours": 4, "distance": distance, "block_size": 16}
    if same_class:
        options |= {"query_labels": classes[asked], "pool_labels": classes[offered]}
    expected = nearest_neighbours(queries, pool, **options)
    on_disk = ChosenLatents(mapped, offered, statistics)
    assert (len(on_disk), on_disk.shape) == (200, pool.shape)
    assert torch.equal(on_disk[torch.tensor([3, 1])], pool[[3, 1]])
    found = nearest_neighbours(queries, on_disk, **options)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.distances, expected.distances)
    assert torch.equal(found.mean_squared_differences, expected.mean_squared_differences)


def test_neighbours_read_the_pool_block_by_block(latents: tuple[Tensor, Watched]) -> None:
    values, mapped = latents
    statistics = channel_statistics(values)
    pool = ChosenLatents(mapped, torch.arange(230), statistics)
    queries = pool[torch.arange(40)]
    mapped.read = 0
    nearest_neighbours(queries, pool, neighbours=2, block_size=8)
    # once for all queries, and forty queries' ten candidates
    assert mapped.read == 230 + 40 * 10
