"""Inception Score: confident and diverse class predictions on generated images."""

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import require_extractor_name
from diffusability.metrics.measurement import Measurement


def measure_inception_score(
    probabilities: Tensor,
    *,
    classifier: str,
    generator: torch.Generator,
    splits: int = 10,
) -> Measurement:
    """Measure exp(E KL(p(y|x) || p(y))), the mean over splits.

    Source: Salimans et al., arXiv 1606.03498, section 4. Samples are assigned to splits at random,
    because splits of samples sorted by class would see few classes each.

    Args:
        probabilities: (N, K) class probabilities p(y|x) of generated images; rows sum to 1.
        classifier: name of the network that made them; only Inception's score is comparable with
            published ones.
        generator: CPU generator that deals the samples into splits.
        splits: number of splits, at least 2; the paper's protocol is 10 of 5,000 images.

    Returns:
        ``generation.inception_score_<classifier>`` in [1, K], a pure number; HIGHER is better. Its
        standard error is the splits' standard deviation over sqrt(splits). Flagged
        ``few-images-per-class`` where a split has fewer than 10 images per class: the score is then
        biased towards 1 (p(y) fits the split).

    Raises:
        MeasurementError: if rows are not distributions, or a split would have fewer than two
            samples.
    """
    require_extractor_name(classifier)
    probabilities = _require_distributions(probabilities)
    count, classes = probabilities.shape
    if splits < 2 or count < 2 * splits:
        raise MeasurementError(
            f"{splits} splits need splits >= 2 and at least {2 * splits} images, got {count}"
        )
    order = torch.randperm(count, generator=generator).to(probabilities.device)
    scores = torch.stack(
        [inception_score(probabilities[part]) for part in order.tensor_split(splits)]
    )
    few = count < 10 * classes * splits
    return Measurement(
        metric=f"generation.inception_score_{classifier}",
        value=float(scores.mean()),
        stderr=float(scores.std(correction=1)) / len(scores) ** 0.5,
        n=count,
        higher_is_better=True,
        options={"classifier": classifier, "splits": splits, "classes": classes},
        flags=("few-images-per-class",) if few else (),
    )


def inception_score(probabilities: Tensor) -> Tensor:
    """Return exp(mean KL(p(y|x) || mean p)) of one set.

    Args:
        probabilities: (N, K) float64 rows that sum to 1; zeros are allowed (0 log 0 = 0).

    Returns:
        Scalar tensor in [1, K]; HIGHER is better.
    """
    marginal = probabilities.mean(dim=0)  # (K,)
    # Mean KL = H(marginal) - mean H(rows); xlogy makes 0 log 0 = 0.
    entropy = -torch.xlogy(marginal, marginal).sum()
    row_entropy = -torch.xlogy(probabilities, probabilities).sum(dim=1)  # (N,)
    return (entropy - row_entropy.mean()).exp()


def _require_distributions(probabilities: Tensor) -> Tensor:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise MeasurementError(
            f"class probabilities must be (N, K >= 2), got {tuple(probabilities.shape)}"
        )
    probabilities = probabilities.detach().to(torch.float64)
    total = probabilities.sum(dim=1)
    # 1e-3: bfloat16 softmax rows are off by that much; logits are off by far more.
    if bool((probabilities < 0).any()) or not bool(((total - 1).abs() < 1e-3).all()):
        raise MeasurementError(
            "class probabilities are negative, not finite or do not sum to 1; "
            "apply a softmax to logits first"
        )
    return probabilities / total[:, None]
