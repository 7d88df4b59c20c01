"""Inception Score and class accuracy: bounds, closed forms, loops, coverage."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusability.errors import MeasurementError
from diffusability.metrics.class_accuracy import measure_class_accuracy
from diffusability.metrics.inception_score import inception_score, measure_inception_score
from diffusability.metrics.measurement import Measurement


def measure(probabilities: torch.Tensor, *, splits: int = 2, seed: int = 0) -> Measurement:
    return measure_inception_score(
        probabilities,
        classifier="probe",
        generator=torch.Generator().manual_seed(seed),
        splits=splits,
    )


def dirichlet(count: int, classes: int, seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.dirichlet(np.full(classes, 0.3), size=count))


def test_equal_predictions_score_one() -> None:
    result = measure(torch.tensor([[0.2, 0.3, 0.5]]).repeat(40, 1))
    assert result.value == pytest.approx(1.0, abs=1e-12)
    assert result.stderr == pytest.approx(0.0, abs=1e-12)


def test_certain_and_balanced_predictions_score_the_number_of_classes() -> None:
    score = inception_score(torch.eye(7, dtype=torch.float64).repeat(5, 1))
    assert float(score) == pytest.approx(7.0, rel=1e-12)


def test_agrees_with_the_loop() -> None:
    p = dirichlet(30, 4, seed=1)
    marginal = p.mean(dim=0)
    total = 0.0
    for row in p:
        total += sum(
            float(a) * math.log(float(a) / float(b))
            for a, b in zip(row, marginal, strict=True)
            if a > 0
        )
    assert float(inception_score(p)) == pytest.approx(math.exp(total / 30), rel=1e-10)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 12))
def test_bounds(seed: int, classes: int) -> None:
    result = measure(dirichlet(40, classes, seed))
    assert 1 <= result.value <= classes
    assert result.higher_is_better is True


def test_splits_are_random_not_in_order() -> None:
    # Sorted by class, splits in order would each see few classes and score near 1.
    p = torch.eye(10, dtype=torch.float64).repeat_interleave(200, dim=0)
    assert measure(p, splits=10).value > 9.5


def test_mean_and_error_over_splits() -> None:
    p = dirichlet(90, 3, seed=4)
    result = measure(p, splits=3, seed=8)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(8))
    scores = [float(inception_score(p[part])) for part in order.split(30)]
    assert result.value == pytest.approx(np.mean(scores), rel=1e-12)
    assert result.stderr == pytest.approx(np.std(scores, ddof=1) / 3**0.5, rel=1e-10)


def test_small_splits_are_flagged() -> None:
    assert measure(dirichlet(59, 3, seed=1)).flags == ("few-images-per-class",)
    assert measure(dirichlet(60, 3, seed=1)).flags == ()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), "apply a softmax"),
        (torch.full((20, 3), math.nan), "apply a softmax"),
        (torch.full((20, 3), 0.5), "apply a softmax"),
        (torch.full((3, 2), 0.5), "at least 4 images, got 3"),
        (torch.ones(20, 1), r"must be \(N, K >= 2\), got \(20, 1\)"),
    ],
)
def test_bad_probabilities_are_refused(bad: torch.Tensor, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        measure(bad)


def accuracy(predicted: list[int], conditioning: list[int], classes: int = 10) -> Measurement:
    return measure_class_accuracy(
        predicted=torch.tensor(predicted),
        conditioning=torch.tensor(conditioning),
        classes=classes,
        classifier="probe",
    )


def test_class_accuracy_counts() -> None:
    result = accuracy([0, 1, 2, 3], [0, 1, 2, 9])
    assert result.value == 0.75
    assert result.stderr == pytest.approx(math.sqrt(5 / 8 * 3 / 8 / 8))
    assert result.metric == "generation.class_accuracy_probe"
    assert result.higher_is_better is True


def test_class_accuracy_keeps_an_error_where_all_are_right() -> None:
    assert accuracy([1] * 16, [1] * 16).stderr == pytest.approx(math.sqrt(0.9 * 0.1 / 20))


def test_class_accuracy_error_covers() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        right = (random.random(200) < 0.8).astype(int)
        result = accuracy(right.tolist(), [1] * 200, classes=2)
        hits += abs(result.value - 0.8) < 1.96 * result.stderr
    assert 0.92 <= hits / 1000 <= 0.98


def test_labels_out_of_range_are_refused() -> None:
    with pytest.raises(MeasurementError, match="outside the 10 classes"):
        accuracy([0, 1], [0, 10])
    with pytest.raises(MeasurementError, match="outside"):
        accuracy([0, -1], [0, 1])
    with pytest.raises(MeasurementError, match="two"):
        accuracy([0, 1], [0])
    with pytest.raises(MeasurementError, match="integers"):
        measure_class_accuracy(
            predicted=torch.zeros(2), conditioning=torch.zeros(2), classes=2, classifier="probe"
        )
