"""What a trained encoder does on images that it has not seen."""

from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.encoders.interface import StudyEncoder
from diffusability.nn.chunks import chunks
from diffusability.training.run import Batch, Losses

BATCH = 256
PROBED = 2_000  # images that the probes learn from, and that they name, at most
TOKENS = 4  # of each, that the probe of tokens learns from
INVERSE_PENALTY = 0.1  # of the probe, on features of variance one
ITERATIONS = 200
JUDGED = 5_000  # images of a split, at most, evenly spread over it


@torch.no_grad()
def held_out_numbers(
    encoder: StudyEncoder,
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
        No accuracy where the training images are of one class; nothing without validation images.
    """
    device = generator.device
    asked, known = (_spread(data.split(name)) for name in ("val", "train"))
    if not len(asked):
        return {}
    features = _of_images(encoder.features, data, asked, device)  # (M, D)
    if encoder.classes:
        return _accuracy(encoder.logits(features.to(device)).argmax(1).cpu(), data.labels[asked])
    accuracy: dict[str, float] = {}
    if _has_classes(data.labels[known]):
        named = name_by_nearest_centroid(
            _of_images(encoder.features, data, known, device), data.labels[known], features
        )
        accuracy = _accuracy(named, data.labels[asked])
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
    return accuracy | terms


@torch.no_grad()
def token_numbers(
    encoder: StudyEncoder, data: ImageSet, generator: torch.Generator
) -> dict[str, float]:
    """Return how well single positions of the feature map know the class of their image.

    Two linear probes (logistic regression on features of variance one) learn from training images:
    one from random tokens, one from the means over tokens. Both name validation images.

    Args:
        encoder: trained, in evaluation mode, on the generator's device.
        data: the study's images.
        generator: draws the tokens that the probe learns from.

    Returns:
        `probe_token`, the accuracy over all tokens, and `probe_mean`, that of the mean token, in
        [0, 1], higher is better, each with its standard error over images; and `token_rank`, the
        entropy rank of the tokens' covariance, between 1 and their channels: near 1 the features
        have collapsed. The rank alone where the training images are of one class, or where there
        are no validation images.
    """
    known, asked = (_spread(data.split(name), PROBED) for name in ("train", "val"))

    def tokens_of(images: Tensor) -> Tensor:
        return encoder.grid(images).flatten(2).transpose(1, 2)  # (B, N, D)

    def drawn(images: Tensor) -> Tensor:
        """Return (B, k + 1, D): k random tokens of every image, and their mean."""
        tokens = tokens_of(images)  # (B, N, D)
        scores = torch.rand(tokens.shape[:2], generator=generator, device=generator.device)
        chosen = scores.topk(min(TOKENS, tokens.shape[1]), dim=1).indices  # (B, k)
        picked = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
        return torch.cat([picked, tokens.mean(1, keepdim=True)], dim=1)

    learnt = _of_images(drawn, data, known, generator.device)  # (n, k + 1, D)
    tokens, means = learnt[:, :-1], learnt[:, -1:]
    rank = {"token_rank": entropy_rank(tokens.flatten(0, 1))}
    if not len(asked) or not _has_classes(data.labels[known]):
        return rank
    labels = data.labels[known][:, None]
    of_token, of_mean = LinearProbe(tokens, labels), LinearProbe(means, labels)

    def right(images: Tensor) -> Tensor:
        """Return (B, N + 1) class names by every token, and by their mean."""
        tokens = tokens_of(images).cpu()  # (B, N, D)
        return torch.cat([of_token.name(tokens), of_mean.name(tokens.mean(1, keepdim=True))], 1)

    named = _of_images(right, data, asked, generator.device)  # (M, N + 1)
    hits = (named == data.labels[asked][:, None]).double()
    shares = {"probe_token": hits[:, :-1].mean(1), "probe_mean": hits[:, -1]}  # (M,) each
    numbers: dict[str, float] = {}
    for name, share in shares.items():
        numbers[name] = share.mean().item()
        numbers[f"{name}_stderr"] = (share.std() / len(share) ** 0.5).item()
    return numbers | rank


class LinearProbe:
    """Logistic regression on features that are scaled to variance one over what it learns from."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        """Learn from (n, k, D) features of images with (n, 1) labels."""
        flat = features.flatten(0, 1).double()  # (n·k, D)
        self.mean, self.std = flat.mean(0), flat.std(0).clamp_min(1e-6)
        self.model = LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS)
        names = labels.expand(features.shape[:2]).flatten()
        self.model.fit(((flat - self.mean) / self.std).numpy(), names.numpy())

    def name(self, features: Tensor) -> Tensor:
        """Return the (B, N) int64 classes of (B, N, D) features."""
        scaled = (features.flatten(0, 1).double() - self.mean) / self.std  # (B·N, D)
        return torch.from_numpy(self.model.predict(scaled.numpy())).view(features.shape[:2])


def entropy_rank(features: Tensor) -> float:
    """Return exp(-Σ p log p) of the covariance's eigenvalues p, scaled to sum one.

    Roy and Vetterli, The effective rank (EUSIPCO 2007), of a covariance.

    Args:
        features: (n, D).
    """
    eigenvalues = torch.linalg.eigvalsh(features.double().T.cov()).clamp_min(0)  # (D,)
    p = eigenvalues / eigenvalues.sum().clamp_min(1e-300)
    return torch.special.entr(p).sum().exp().item()


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


def _spread(indices: Tensor, most: int = JUDGED) -> Tensor:
    """Return at most `most` of the indices, from all along the split."""
    return indices[:: max(1, -(-len(indices) // most))]


def _has_classes(labels: Tensor) -> bool:
    """Return whether there are two classes that could be told apart."""
    return len(labels.unique()) > 1


def _of_images(
    network: Callable[[Tensor], Tensor], data: ImageSet, chosen: Tensor, device: torch.device
) -> Tensor:
    """Return what a network says of the chosen (n,) images, on the CPU."""
    batches = in_batches(data.images, chosen, BATCH)
    parts = (few for batch in batches for few in chunks(batch))
    return torch.cat([network(to_float(part.to(device))).cpu() for part in parts])


def _accuracy(named: Tensor, labels: Tensor) -> dict[str, float]:
    share = (named == labels).double().mean().item()
    stderr = (share * (1 - share) / len(labels)) ** 0.5
    return {"validation_accuracy": share, "validation_accuracy_stderr": stderr}
