"""Moments that merge and part again, whatever the scatter holds."""

import pytest
import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.statistics import Moments, deal_blocks, mean_and_stderr


def moments(x: Tensor, pairs: bool) -> Moments:
    centred = x - x.mean(dim=0)
    scatter = centred.T @ centred if pairs else centred.square().sum(dim=0)
    return Moments(len(x), x.mean(dim=0), scatter)


@pytest.fixture
def vectors() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 3, generator=generator, dtype=torch.float64) + 5


@pytest.mark.parametrize("pairs", [False, True])
def test_parts_merge_to_the_whole_and_leave_it_again(vectors: Tensor, pairs: bool) -> None:
    whole = moments(vectors, pairs)
    first, second = moments(vectors[:7], pairs), moments(vectors[7:], pairs)
    for merged in (first.merge(second), second.merge(first)):
        assert merged.count == 60
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-13, atol=1e-13)
    rest = whole.without(first)
    assert rest.count == 53
    torch.testing.assert_close(rest.mean, second.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(rest.scatter, second.scatter, rtol=1e-12, atol=1e-12)


def test_what_does_not_belong_together_is_refused(vectors: Tensor) -> None:
    whole, narrow = moments(vectors, True), moments(vectors[:, :2], True)
    with pytest.raises(MeasurementError, match="3 and of 2 dimensions"):
        whole.merge(narrow)
    with pytest.raises(MeasurementError, match="cannot remove 60 vectors from 60"):
        whole.without(whole)


def test_one_value_has_no_error(vectors: Tensor) -> None:
    with pytest.raises(MeasurementError, match="x: 1 usable images give no standard error"):
        mean_and_stderr(vectors[:1, 0], "x")
    mean, stderr = mean_and_stderr(vectors[:, 0], "x")
    assert mean == pytest.approx(float(vectors[:, 0].mean()))
    assert stderr == pytest.approx(float(vectors[:, 0].var() / 60) ** 0.5)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_samples_of_one_image_are_dealt_together_and_every_block_has_its_share() -> None:
    # 40 images, 20 of them in the second set, each twice
    first, second = torch.arange(40) + 7, torch.arange(40) % 20 * 2 + 7
    sets = deal_blocks((40, 40), 5, seeded(), (first, second))
    for rows, images in zip(sets, (first, second), strict=True):
        assert torch.equal(torch.cat(rows).sort().values, torch.arange(40))
        assert [len(part) for part in rows] == [8] * 5
        assert images[rows[0]].tolist() != images.sort().values[:8].tolist()  # at random
    for one, other in zip(*sets, strict=True):
        assert set(second[other].tolist()) <= set(first[one].tolist())


def test_independent_samples_are_dealt_one_set_after_the_other() -> None:
    generator = seeded()
    orders = [torch.randperm(n, generator=generator) for n in (7, 5)]
    found = deal_blocks((7, 5), 3, seeded())
    for order, rows in zip(orders, found, strict=True):
        assert torch.equal(torch.cat(rows), order)


def test_one_image_per_sample_is_asked_for() -> None:
    with pytest.raises(MeasurementError, match="one image per sample"):
        deal_blocks((4, 3), 2, seeded(), (torch.arange(4), torch.arange(4)))
