"""Naming by the nearest class mean: by hand, and against scikit-learn."""

import torch
from sklearn.neighbors import NearestCentroid

from diffusability.encoders.held_out import name_by_nearest_centroid


def test_by_hand_with_labels_that_leave_gaps() -> None:
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 10.0], [12.0, 10.0]])
    queries = torch.tensor([[1.0, 1.0], [11.0, 11.0], [4.0, 4.0], [8.0, 8.0]])
    named = name_by_nearest_centroid(features, torch.tensor([7, 7, 3, 3]), queries)
    assert named.tolist() == [7, 3, 7, 3]


def test_no_channel_rules_by_its_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    features = torch.randn(200, 2, generator=generator)
    features[:, 0] += 4 * labels  # tells the classes apart
    features[:, 1] *= 1000  # tells nothing
    named = name_by_nearest_centroid(features[:100], labels[:100], features[100:])
    assert (named == labels[100:]).float().mean() > 0.9


def test_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(6, (300,), generator=generator)
    features += labels[:, None] * torch.tensor([0.5, -0.3, 0.2, 0.0, 0.1])
    scaled = (features - features[:200].mean(0)) / features[:200].std(0)
    expected = NearestCentroid().fit(scaled[:200], labels[:200]).predict(scaled[200:])
    named = name_by_nearest_centroid(features[:200], labels[:200], features[200:])
    assert named.tolist() == expected.tolist()
