"""FDr6: the Fréchet distance in six feature spaces, each relative to that of real images.

FDr-X = FD_X(generated, train reference) / FD_X(real validation images, train reference), and FDr6
is the arithmetic mean of the six, so real images score 1. Source: "Representation Fréchet Loss for
Visual Generation" (arXiv 2604.28190). The published denominators are rounded to two decimals, which
moves the MAE term by up to 12.5 %; here they are recomputed at full precision and stored with a
hash of the statistics that they were computed from. The paper's six spaces are those of
`study/entries/representations.py` and Inception's; any six spaces can be used for other images.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from diffusability.artifacts.tensors import write_tensors
from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import FeatureMoments, merge_moments
from diffusability.metrics.frechet import FrechetReference, frechet_distance
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import delete_block_stderr
from diffusability.study.entries.representations import FDR6_SPACES


@dataclass(frozen=True)
class FrechetNormaliser:
    """Fréchet distance of real validation images from the reference, at full precision.

    Attributes:
        extractor: name of the feature extractor.
        value: FD_X(validation, reference), feature units squared, > 0.
        reference_digest: hash of the reference moments.
        validation_digest: hash of the validation moments.
        rank_deficient: whether either set has no more images than features.
    """

    extractor: str
    value: float
    reference_digest: str
    validation_digest: str
    rank_deficient: bool


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
    return FrechetNormaliser(
        reference.extractor,
        value,
        reference.digest(),
        validation.digest(),
        reference.rank_deficient or validation.rank_deficient,
    )


def save_normalisers(path: Path, normalisers: Sequence[FrechetNormaliser]) -> None:
    """Write normalisers to a JSON file, with the SHA-256 of their content.

    Args:
        path: file to write.
        normalisers: one per extractor.
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


def save_references(path: Path, references: Sequence[FeatureMoments]) -> None:
    """Write moments of several extractors to one safetensors file.

    Args:
        path: file to write.
        references: one per extractor, all of images of one size.
    """
    tensors = {
        f"{moments.extractor}/{key}": tensor
        for moments in references
        for key, tensor in moments.to_tensors().items()
    }
    metadata = {m.extractor: json.dumps(m.to_metadata()) for m in references}
    write_tensors(path, tensors, metadata)


def load_references(path: Path) -> dict[str, FeatureMoments]:
    """Return the moments of a file by extractor.

    Args:
        path: file that ``save_references`` wrote.

    Raises:
        MeasurementError: if the moments of an extractor are incomplete.
    """
    with safe_open(path, "pt") as file:
        metadata = {name: json.loads(text) for name, text in file.metadata().items()}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return {
        name: FeatureMoments.from_tensors(
            {k.removeprefix(f"{name}/"): t for k, t in tensors.items() if k.startswith(f"{name}/")},
            names,
        )
        for name, names in metadata.items()
    }


def measure_fdr6(
    *,
    references: Mapping[str, FeatureMoments],
    generated: Mapping[str, Sequence[FeatureMoments]],
    normalisers: Mapping[str, FrechetNormaliser],
) -> list[Measurement]:
    """Measure FDr6 and the six ratios that it averages.

    Args:
        references: moments of the train set, by extractor name.
        generated: moments of the generated images, by extractor name, six of them; shard j holds
            the same images for every extractor, and there are at least two shards.
        normalisers: denominators, by extractor name, made with these references.

    Returns:
        ``generation.fdr6`` and ``generation.fdr_<extractor>``, pure numbers; LOWER is better, real
        images score 1. The standard error leaves out one shard for all extractors at once (their
        errors are correlated), given references and normalisers.

    Raises:
        MeasurementError: if there are not six extractors, one lacks a reference or a normaliser,
            a normaliser belongs to another reference, or the shards do not hold the same images.
    """
    names = list(generated)
    if len(names) != FDR6_SPACES:
        raise MeasurementError(f"FDr6 averages over {FDR6_SPACES} extractors, there are {names}")
    given = {"references": set(references), "normalisers": set(normalisers)}
    for what, found in given.items():
        if found != set(names):
            missing, unknown = set(names) - found, found - set(names)
            raise MeasurementError(
                f"FDr6 over {names}: {what} lack {sorted(missing)} and have the unknown "
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
    flags = _rank_flags(references, generated, normalisers)
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
    """Return the normaliser; refuse one that was computed with another reference."""
    if (normaliser.extractor, normaliser.reference_digest) != (
        reference.extractor,
        reference.digest(),
    ):
        raise MeasurementError(
            f"normaliser of {normaliser.extractor} was computed with another reference than "
            f"the one given for {reference.extractor}; recompute it"
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


def _rank_flags(
    references: Mapping[str, FeatureMoments],
    generated: Mapping[str, Sequence[FeatureMoments]],
    normalisers: Mapping[str, FrechetNormaliser],
) -> tuple[str, ...]:
    """Return flags, and warn, if a set has no more images than features in some space."""
    low = [
        f"{name} ({references[name].dim})"
        for name, shards in generated.items()
        if normalisers[name].rank_deficient or merge_moments(shards).rank_deficient
    ]
    if not low:
        return ()
    warnings.warn(
        f"FDr6: no more images than features in {', '.join(low)}; a covariance is "
        "rank-deficient and the ratio is strongly biased. Use more images or smaller extractors",
        stacklevel=3,
    )
    return ("rank-deficient",)


def _content_hash(content: list[dict[str, object]]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
