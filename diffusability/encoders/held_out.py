"""What a trained encoder does on images that it has not seen."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.encoders.convnet import ConvEncoder
from diffusability.training.loop import Batch, Losses

BATCH = 256
JUDGED = 5_000  # images of a split, at most, evenly spread over it


@torch.no_grad()
def held_out_numbers(
    encoder: ConvEncoder,
    data: ImageSet,
    loss_on: Callable[[Tensor], Callable[[Batch], Losses]],
    loss_name: str,
    batch: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Return named numbers of the validation images, for the log and the history.

    Args:
        encoder: trained, in evaluation mode, on the generator's device.
        data: the study's images.
        loss_on: gives the loss of its training on the images of (n,) indices.
        loss_name: of that loss in the curves.
        batch: images per batch of the training.
        generator: of the views and masks that a loss draws.

    Returns:
        `validation_accuracy`, in [0, 1] and higher is better, with its binomial standard error: of
        the class head where there is one, else of the nearest class mean of training features.
        Without a class head also the training's own loss and terms, means over whole batches.
    """
    device = generator.device
    asked, known = (_spread(data.split(name)) for name in ("val", "train"))
    features = _of_images(encoder.features, data, asked, device)  # (M, D)
    if encoder.classes:
        return _accuracy(encoder.logits(features.to(device)).argmax(1).cpu(), data.labels[asked])
    named = name_by_nearest_centroid(
        _of_images(encoder.features, data, known, device), data.labels[known], features
    )
    loss = loss_on(asked)
    size = min(batch, len(asked))  # the loss of a contrastive encoder depends on it
    rows = []
    for k in range(len(asked) // size):
        losses = loss(Batch(k, torch.arange(k * size, (k + 1) * size), generator))
        rows.append({loss_name: losses.total, **losses.terms})
    terms = {
        f"validation_{name}": torch.stack([row[name] for row in rows]).mean().item()
        for name in rows[0]
    }
    return {**_accuracy(named, data.labels[asked]), **terms}


def name_by_nearest_centroid(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Name images by the nearest mean of a class.

    Features are first scaled to unit variance over the labelled images, because the channels of a
    network that was never read out linearly have no common scale.

    Args:
        features: (N, D) of labelled images.
        labels: (N,) int64; classes without an image are never named.
        queries: (M, D) of other images.

    Returns:
        (M,) int64, the class of each query.
    """
    mean, std = features.double().mean(0), features.double().std(0).clamp_min(1e-6)
    known, asked = ((f.double() - mean) / std for f in (features, queries))  # (N, D), (M, D)
    classes, members = labels.unique(return_inverse=True)  # (K,), (N,)
    sums = torch.zeros(len(classes), known.shape[1], dtype=known.dtype, device=known.device)
    centroids = sums.index_add_(0, members, known) / members.bincount()[:, None]  # (K, D)
    return classes[torch.cdist(asked, centroids).argmin(1)]


def _spread(indices: Tensor) -> Tensor:
    """Return at most JUDGED of the indices, from all along the split."""
    return indices[:: -(-len(indices) // JUDGED)]


def _of_images(
    network: Callable[[Tensor], Tensor], data: ImageSet, chosen: Tensor, device: torch.device
) -> Tensor:
    """Return what a network says of the chosen (n,) images, on the CPU."""
    batches = in_batches(data.images, chosen, BATCH)
    return torch.cat([network(to_float(part.to(device))).cpu() for part in batches])


def _accuracy(named: Tensor, labels: Tensor) -> dict[str, float]:
    share = (named == labels).double().mean().item()
    stderr = (share * (1 - share) / len(labels)) ** 0.5
    return {"validation_accuracy": share, "validation_accuracy_stderr": stderr}
