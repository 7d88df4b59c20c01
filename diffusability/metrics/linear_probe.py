"""Linear probing: the accuracy of full-batch multinomial logistic regression on latents."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.measurement import Measurement

_FOLDS = 5
_INVERSE_PENALTY = 1.0
_ITERATIONS = 500


class ProbeError(MeasurementError):
    """Classes are too few or too small for a linear probe."""


def linear_probe(
    features: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    train: Tensor | None = None,
) -> Measurement:
    """Return the held-out accuracy of a linear classifier, every image counted at most once.

    L-BFGS on the whole training part, L2 penalty with C = 1 on features standardised over that
    part. The standard error is over held-out images, the classifiers held fixed. A test image whose
    class the training part lacks counts as a miss.

    Args:
        features: (N, F) float64.
        labels: (N,) integer class numbers.
        generator: draws the stratified folds; unused where ``train`` is given.
        train: (N,) bool, images to learn from, the others being the test; None cross-validates.

    Returns:
        ``semantics.probe``, top-1 accuracy in [0, 1]; HIGHER is better.

    Raises:
        ProbeError: one class, or for folds a class of one image.
        MeasurementError: ``train`` is malformed, or leaves a side empty.
    """
    x = features.cpu().numpy()  # (N, F)
    y = labels.cpu().numpy()  # (N,)
    if train is None:
        splits, protocol = _stratified_folds(y, generator)
    else:
        splits, protocol = _given_split(train, y.size)
    tests = [_hits(x, y, learn, test) for learn, test in splits]
    flags = () if all(converged for _, converged in tests) else ("probe not converged",)
    correct = np.concatenate([hits for hits, _ in tests]).astype(np.float64)  # (test images,)
    options = {"pooling": "mean", "normalise": True, "C": _INVERSE_PENALTY, "protocol": protocol}
    return Measurement(
        "semantics.probe",
        float(correct.mean()),
        float(correct.std() / np.sqrt(correct.size)),
        correct.size,
        "1",
        True,
        options,
        flags,
    )


def _hits(
    x: np.ndarray, y: np.ndarray, learn: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Fit on one part; return which images of the other are right, and whether it converged."""
    if np.unique(y[learn]).size < 2:
        raise ProbeError("a linear probe needs two classes in its training part; got one")
    centre, spread = x[learn].mean(axis=0), x[learn].std(axis=0, ddof=1)  # (F,) each
    spread[spread == 0] = 1.0  # a constant feature carries no information at any scale
    scaled = (x - centre) / spread  # (N, F)
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_ITERATIONS)
    model.fit(scaled[learn], y[learn])
    return model.predict(scaled[test]) == y[test], int(np.max(model.n_iter_)) < _ITERATIONS


Splits = list[tuple[np.ndarray, np.ndarray]]


def _stratified_folds(labels: np.ndarray, generator: torch.Generator) -> tuple[Splits, str]:
    """Return stratified folds, fewer than five where the smallest class is smaller."""
    sizes = np.unique(labels, return_counts=True)[1]
    folds = min(_FOLDS, int(sizes.min()))
    if sizes.size < 2 or folds < 2:
        raise ProbeError(
            f"a linear probe needs two classes with two images each; got {sizes.size} classes, "
            f"the smallest of {int(sizes.min())}; leave out classes of one image with "
            "metrics.semantics.smallest_class: skip"
        )
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(labels[:, None], labels)), f"{folds} stratified folds"


def _given_split(train: Tensor, count: int) -> tuple[Splits, str]:
    """Return the split given by ``train``."""
    if train.shape != (count,) or train.dtype != torch.bool:
        raise MeasurementError(
            f"train must be ({count},) bool; got shape {tuple(train.shape)} of {train.dtype}"
        )
    learn = train.cpu().numpy()
    if learn.all() or not learn.any():
        raise MeasurementError("The probe needs images to learn from and images to test on")
    return [
        (np.flatnonzero(learn), np.flatnonzero(~learn))
    ], f"{int(learn.sum())} given training images"
