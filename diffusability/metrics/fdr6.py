"""FDr6: the Fréchet distance in six feature spaces, each relative to that of real images.

FDr-X = FD_X(generated, train reference) / FD_X(real validation images, train reference), and FDr6
is the arithmetic mean of the six, so real images score 1. Source: "Representation Fréchet Loss for
Visual Generation" (arXiv 2604.28190). The published denominators are rounded to two decimals, which
moves the MAE term by up to 12.5 %; here they are recomputed at full precision and stored with a
hash of the statistics that they belong to.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from diffusability.errors import MeasurementError
from diffusability.metrics.block_jackknife import delete_block_stderr
from diffusability.metrics.feature_moments import FeatureMoments, merge_moments
from diffusability.metrics.frechet import FrechetReference, frechet_distance
from diffusability.metrics.measurement import Measurement


@dataclass(frozen=True)
class Fdr6Extractor:
    """One of the six feature spaces.

    Attributes:
        name: name of the extractor in metric names and files.
        weights: timm name of the pretrained weights; for Inception, the FID network.
        input_side: side in pixels that images are resized to (bicubic with antialias, then the
            model's own mean and standard deviation; Inception resizes on its own).
        feature: what is taken of the network.
        published_normaliser: FD of the ImageNet validation set, as printed (two decimals); for
            comparison only, never used as a denominator.
    """

    name: str
    weights: str
    input_side: int
    feature: str
    published_normaliser: float


FDR6_EXTRACTORS = (
    Fdr6Extractor("inception", "FID Inception-v3 (2015-12-05)", 299, "pool, 2048", 1.68),
    Fdr6Extractor("convnext", "convnextv2_base.fcmae_ft_in22k_in1k", 224, "spatial mean", 56.87),
    Fdr6Extractor("dinov2", "vit_large_patch14_dinov2.lvd142m", 256, "class token", 14.19),
    Fdr6Extractor("mae", "vit_large_patch16_224.mae", 224, "class token", 0.04),
    Fdr6Extractor("siglip2", "vit_so400m_patch16_siglip_256.v2_webli", 224, "attention pool", 0.60),
    Fdr6Extractor("clip", "vit_large_patch14_clip_224.openai", 256, "class token", 5.60),
)


@dataclass(frozen=True)
class FrechetNormaliser:
    """Fréchet distance of real validation images from the reference, at full precision.

    Attributes:
        extractor: name of the feature extractor.
        value: FD_X(validation, reference), feature units squared, > 0.
        reference_digest: hash of the reference moments.
        validation_digest: hash of the validation moments.
    """

    extractor: str
    value: float
    reference_digest: str
    validation_digest: str


def compute_normaliser(
    *, reference: FeatureMoments, validation: FeatureMoments
) -> FrechetNormaliser:
    """Return the denominator of one FDr.

    Args:
        reference: moments of the train set.
        validation: moments of real images outside it (ImageNet: the 50,000 of val).

    Raises:
        MeasurementError: if the moments do not belong together, or are the same set.
    """
    value = frechet_distance(reference, validation)
    if not value > 0 or reference.digest() == validation.digest():
        raise MeasurementError(
            f"normaliser of {reference.extractor}: validation and reference images are the same "
            "set, their distance cannot be a denominator"
        )
    return FrechetNormaliser(reference.extractor, value, reference.digest(), validation.digest())


def save_normalisers(path: Path, normalisers: Sequence[FrechetNormaliser]) -> None:
    """Write normalisers to a JSON file, with the SHA-256 of their content.

    Args:
        path: file to write.
        normalisers: one an extractor.
    """
    content = [asdict(n) for n in sorted(normalisers, key=lambda n: n.extractor)]
    path.write_text(
        json.dumps({"sha256": _content_hash(content), "normalisers": content}, indent=2) + "\n"
    )


def load_normalisers(path: Path) -> dict[str, FrechetNormaliser]:
    """Return the normalisers of a file by extractor.

    Args:
        path: file that ``save_normalisers`` wrote.

    Raises:
        MeasurementError: if the file is missing, malformed, or not what was written.
    """
    if not path.is_file():
        raise MeasurementError(f"normalisers {path} do not exist; compute them from real images")
    try:
        stored = json.loads(path.read_text())
        content, written = stored["normalisers"], stored["sha256"]
        normalisers = {entry["extractor"]: FrechetNormaliser(**entry) for entry in content}
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"normalisers {path} cannot be read ({error})") from error
    if _content_hash(content) != written:
        raise MeasurementError(f"normalisers {path} were altered: their hash does not match")
    return normalisers


def measure_fdr6(
    *,
    references: Mapping[str, FeatureMoments],
    generated: Mapping[str, Sequence[FeatureMoments]],
    normalisers: Mapping[str, FrechetNormaliser],
) -> list[Measurement]:
    """Measure FDr6 and the six ratios that it averages.

    Args:
        references: moments of the train set, by extractor name.
        generated: moments of the generated images, by extractor name; shard j holds the same
            images for every extractor, and there are at least two shards.
        normalisers: denominators, by extractor name, made with these references.

    Returns:
        ``generation.fdr6`` and ``generation.fdr_<extractor>``, pure numbers; LOWER is better, real
        images score 1. The standard error leaves out one shard for all extractors at once (their
        errors are correlated), given references and normalisers.

    Raises:
        MeasurementError: if an extractor or a normaliser is missing or unknown, a normaliser
            belongs to another reference, or the shards do not hold the same images.
    """
    names = [extractor.name for extractor in FDR6_EXTRACTORS]
    for what, given in (
        ("references", references),
        ("generated features", generated),
        ("normalisers", normalisers),
    ):
        if set(given) != set(names):
            missing, unknown = set(names) - set(given), set(given) - set(names)
            raise MeasurementError(
                f"FDr6 needs exactly {names}; {what} lack {sorted(missing)} and have the unknown "
                f"{sorted(unknown)}"
            )
    sizes = _shard_sizes(generated)
    # (6, shards + 1): the last column is all shards.
    ratios = torch.stack(
        [
            _ratios(references[n], generated[n], _checked(normalisers[n], references[n]))
            for n in names
        ]
    )
    flags = ("rank-deficient",) if _rank_deficient(references, generated) else ()
    digest = _content_hash([asdict(normalisers[name]) for name in names])
    rows = {"generation.fdr6": ratios.mean(dim=0)} | {
        f"generation.fdr_{name}": row for name, row in zip(names, ratios, strict=True)
    }
    return [
        Measurement(
            metric=metric,
            value=float(row[-1]),
            stderr=delete_block_stderr(float(row[-1]), row[:-1], sizes),
            n=int(sizes.sum()),
            higher_is_better=False,
            options={"normalisers": digest, "shards": len(sizes)},
            flags=flags,
        )
        for metric, row in rows.items()
    ]


def _ratios(
    reference: FeatureMoments, shards: Sequence[FeatureMoments], normaliser: FrechetNormaliser
) -> torch.Tensor:
    total = merge_moments(shards)
    sets = [total.without(shard) for shard in shards] + [total]
    prepared = FrechetReference(reference)
    distances = torch.tensor([prepared.distance(s) for s in sets], dtype=torch.float64)
    return distances / normaliser.value


def _checked(normaliser: FrechetNormaliser, reference: FeatureMoments) -> FrechetNormaliser:
    """Return the normaliser if it was made with this reference, else refuse it."""
    if (normaliser.extractor, normaliser.reference_digest) != (
        reference.extractor,
        reference.digest(),
    ):
        raise MeasurementError(
            f"normaliser of {normaliser.extractor} was computed with another reference than the "
            f"one given for {reference.extractor}; compute it anew"
        )
    if not normaliser.value > 0:
        raise MeasurementError(
            f"normaliser of {normaliser.extractor} is {normaliser.value}, not positive"
        )
    return normaliser


def _shard_sizes(generated: Mapping[str, Sequence[FeatureMoments]]) -> torch.Tensor:
    counts = {name: [shard.count for shard in shards] for name, shards in generated.items()}
    first = next(iter(counts.values()))
    if any(other != first for other in counts.values()):
        raise MeasurementError(f"FDr6 needs the same images in every extractor's shards: {counts}")
    return torch.tensor(first)


def _rank_deficient(
    references: Mapping[str, FeatureMoments], generated: Mapping[str, Sequence[FeatureMoments]]
) -> bool:
    return any(
        references[name].rank_deficient or merge_moments(generated[name]).rank_deficient
        for name in references
    )


def _content_hash(content: list[dict[str, object]]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
