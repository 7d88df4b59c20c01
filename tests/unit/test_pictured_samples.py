"""Which samples a grid shows: all classes of a few, some of a thousand, in columns."""

import pytest

from diffusability.diffusion.sampler import balanced_labels
from diffusability.stages.samples import PICTURED_OF_MANY, PICTURED_ROWS, pictured_indices


@pytest.mark.parametrize("classes", [8, 10, 12, 16])
def test_of_few_classes_the_first_samples_are_shown_a_column_a_class(classes: int) -> None:
    indices, columns = pictured_indices(1000, classes)
    assert (indices, columns) == (list(range(PICTURED_ROWS * classes)), classes)


def test_a_picture_of_a_thousand_classes_stays_small() -> None:
    indices, columns = pictured_indices(10_000, 1000)
    labels = balanced_labels(indices, 1000).view(*PICTURED_OF_MANY)
    assert columns == labels.shape[1]
    assert (labels == labels[0]).all()  # one class a column
    assert labels[0].tolist() == [0, 125, 250, 375, 500, 625, 750, 875]
    assert len(set(indices)) == len(indices)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_of_hardly_any_classes_every_place_is_filled(classes: int) -> None:
    assert pictured_indices(500, classes) == (list(range(64)), 8)


def test_no_more_is_shown_than_there_is() -> None:
    assert pictured_indices(5, 1) == ([0, 1, 2, 3, 4], 8)
    assert pictured_indices(23, 10) == (list(range(23)), 10)
    indices, _ = pictured_indices(1500, 1000)
    assert max(indices) < 1500
    assert len(indices) == 8 + 4  # the second round of classes ends in its middle
