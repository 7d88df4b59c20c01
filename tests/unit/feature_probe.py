"""Judges of frozen features, by other people's code: a linear probe and the nearest class mean."""

from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from diffusability.data.images import ImageSet, to_float

Extract = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def _accuracy(classifier, extract: Extract, data: ImageSet) -> float:
    known, asked = data.split("train"), data.split("val")
    train, held_out = (extract(to_float(data.images[part])) for part in (known, asked))
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    train, held_out = (train - mean) / std, (held_out - mean) / std
    classifier.fit(train.numpy(), data.labels[known].numpy())
    return float(classifier.score(held_out.numpy(), data.labels[asked].numpy()))


def probe_accuracy(extract: Extract, data: ImageSet) -> float:
    """Held-out accuracy of logistic regression on standardised (N, D) features."""
    return _accuracy(LogisticRegression(C=0.1, max_iter=2000), extract, data)


def nearest_mean_accuracy(extract: Extract, data: ImageSet) -> float:
    """Held-out accuracy of the nearest class mean of standardised (N, D) features."""
    return _accuracy(NearestCentroid(), extract, data)
