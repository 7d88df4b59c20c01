"""Share of generated images that a classifier assigns to the class they were conditioned on."""

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import require_extractor_name
from diffusability.metrics.measurement import Measurement


def measure_class_accuracy(
    *, predicted: Tensor, conditioning: Tensor, classes: int, classifier: str
) -> Measurement:
    """Measure how often the classifier's prediction is the conditioning label.

    Args:
        predicted: (N,) integer labels predicted by the classifier.
        conditioning: (N,) integer labels that the images were generated for.
        classes: number of classes K; labels lie in [0, K). The null label of guidance is not
            allowed.
        classifier: name of the classifier.

    Returns:
        ``generation.class_accuracy_<classifier>``, a share in [0, 1]; HIGHER is better. The
        standard error is binomial at the Agresti-Coull proportion (x + 2) / (N + 4), which does
        not vanish where all or none are right.

    Raises:
        MeasurementError: if lengths differ, there is no image, or a label is out of range.
    """
    require_extractor_name(classifier)
    if predicted.ndim != 1 or predicted.shape != conditioning.shape or len(predicted) == 0:
        raise MeasurementError(
            f"labels must be two (N,) tensors, got predicted {tuple(predicted.shape)} and "
            f"conditioning {tuple(conditioning.shape)}"
        )
    for name, labels in (("predicted", predicted), ("conditioning", conditioning)):
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise MeasurementError(f"{name} labels must be integers, got {labels.dtype}")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise MeasurementError(
                f"{name} labels span [{low}, {high}], outside the {classes} classes"
            )
    count = len(predicted)
    right = int((predicted.to(conditioning.device) == conditioning).sum())
    smoothed = (right + 2) / (count + 4)
    return Measurement(
        metric=f"generation.class_accuracy_{classifier}",
        value=right / count,
        stderr=(smoothed * (1 - smoothed) / (count + 4)) ** 0.5,
        n=count,
        higher_is_better=True,
        options={"classifier": classifier, "classes": classes},
    )
