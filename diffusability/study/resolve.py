"""From the mapping of a study file to typed data: bases under entries, names checked."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from diffusability.study.backbone import LightningDiTBackbone, SiTBackbone
from diffusability.study.dataset import DigitsDataset, FolderDataset, ShapesDataset
from diffusability.study.encoder import (
    ContrastiveEncoder,
    InceptionEncoder,
    LpipsEncoder,
    MaskedEncoder,
    SupervisedEncoder,
    Use,
    VisionEncoder,
)
from diffusability.study.merge import merge
from diffusability.study.names import INCEPTION, INCEPTION_SPATIAL
from diffusability.study.network import ConvNetwork, VitNetwork
from diffusability.study.problems import Problems
from diffusability.study.regularizer import Baseline, Eq, Lcr, Lmr, Mae, Mcos, McosMdms, Mdms, Repa
from diffusability.study.study import Study
from diffusability.study.tokenizer import ExternalTokenizer, TokenizerSpec

DATASETS: dict[str, type[BaseModel]] = {
    "digits": DigitsDataset,
    "shapes": ShapesDataset,
    "folder": FolderDataset,
}
ENCODERS: dict[str, type[BaseModel]] = {
    "supervised": SupervisedEncoder,
    "contrastive": ContrastiveEncoder,
    "masked": MaskedEncoder,
    "vision": VisionEncoder,
    "inception": InceptionEncoder,
    "lpips": LpipsEncoder,
}
EXTERNAL: dict[str, type[BaseModel]] = {"diffusers": ExternalTokenizer}
NETWORKS: dict[str, type[BaseModel]] = {"conv": ConvNetwork, "vit": VitNetwork}
REGULARIZERS: dict[str, type[BaseModel]] = {
    "baseline": Baseline,
    "repa": Repa,
    "mcos": Mcos,
    "mdms": Mdms,
    "mcos+mdms": McosMdms,
    "eq": Eq,
    "lcr": Lcr,
    "lmr": Lmr,
    "mae": Mae,
}
BACKBONES: dict[str, type[BaseModel]] = {"sit": SiTBackbone, "lightningdit": LightningDiTBackbone}
TOKENIZER_PARTS = ("network", "objective", "train")


def resolve_study(data: Mapping[str, Any], source: str) -> Study:
    """Return the typed study of a merged mapping.

    Raises:
        StudyError: listing every problem; `source` says where the mapping came from.
    """
    problems = Problems()
    resolved = dict(data)
    bases = problems.mapping("bases", resolved.pop("bases", {}))
    resolved["datasets"] = _section("datasets", resolved, "kind", DATASETS, problems)
    resolved["encoders"] = _section("encoders", resolved, "kind", ENCODERS, problems)
    resolved["backbones"] = _section("backbones", resolved, "arch", BACKBONES, problems)
    resolved["tokenizers"] = _tokenizers(resolved, bases, problems)
    problems.raise_any(source)
    study = problems.validate("", resolved, Study)
    problems.raise_any(source)
    assert study is not None
    _check_names(study, problems)
    problems.raise_any(source)
    _check_sizes(study, problems)
    problems.raise_any(source)
    return study


def _section(
    section: str,
    data: Mapping[str, Any],
    tag: str,
    models: Mapping[str, type[BaseModel]],
    problems: Problems,
) -> dict[str, BaseModel]:
    entries = problems.mapping(section, data.get(section, {}))
    found = {
        name: problems.validate_tagged(f"{section}.{name}", entry, tag, models)
        for name, entry in entries.items()
    }
    return {name: spec for name, spec in found.items() if spec is not None}


def _tokenizers(
    data: Mapping[str, Any], bases: Mapping[str, Any], problems: Problems
) -> dict[str, BaseModel]:
    entries = problems.mapping("tokenizers", data.get("tokenizers", {}))
    found: dict[str, BaseModel] = {}
    for name, entry in entries.items():
        where = f"tokenizers.{name}"
        flat = _inherit(where, problems.mapping(where, entry), bases, problems, ())
        if not flat:
            continue
        if "source" in flat:
            spec = problems.validate_tagged(where, flat, "source", EXTERNAL)
        else:
            spec = _tokenizer(where, flat, problems)
        if spec is not None:
            found[name] = spec
    return found


def _inherit(
    where: str,
    entry: Mapping[str, Any],
    bases: Mapping[str, Any],
    problems: Problems,
    chain: tuple[str, ...],
) -> dict[str, Any]:
    """Return the entry laid over its base, and that over its own; empty after a problem."""
    own = {k: v for k, v in entry.items() if k != "base"}
    base = entry.get("base")
    if base is None:
        return own
    if base in chain:
        problems.add(f"bases.{base}.base", f"refers to itself: {' -> '.join([*chain, str(base)])}")
        return {}
    if base not in bases:
        problems.unknown(f"{where}.base", base, "base", bases)
        return {}
    below = problems.mapping(f"bases.{base}", bases[base])
    below = _inherit(f"bases.{base}", below, bases, problems, (*chain, str(base)))
    return merge(below, own) if below else {}


def _tokenizer(where: str, flat: Mapping[str, Any], problems: Problems) -> TokenizerSpec | None:
    """Split a flat entry into its parts: what is no part is an option of its method."""
    before = len(problems.lines)
    network = problems.validate_tagged(
        f"{where}.network", flat.get("network", {"arch": None}), "arch", NETWORKS
    )
    options = {k: v for k, v in flat.items() if k not in TOKENIZER_PARTS}
    regularizer = problems.validate_tagged(where, options, "method", REGULARIZERS)
    if len(problems.lines) > before:
        return None
    parts = {k: flat[k] for k in ("objective", "train") if k in flat}
    return problems.validate(
        where, {"network": network, "regularizer": regularizer, **parts}, TokenizerSpec
    )


def _check_names(study: Study, problems: Problems) -> None:
    """Every name that one part of the study uses must be declared in another."""
    select = study.select
    if select.dataset not in study.datasets:
        problems.unknown("select.dataset", select.dataset, "dataset", study.datasets)
    _check_list("select.tokenizers", select.tokenizers, "tokenizer", study.tokenizers, problems)
    _check_list("select.backbones", select.backbones, "backbone", study.backbones, problems)
    _check_list("select.repeats", select.repeats, "tokenizer", study.tokenizers, problems)
    keys: dict[str, tuple[str, Use]] = {
        "encoder": ("encoder", "alignment"),
        "perceptual": ("objective.perceptual_encoder", "perceptual"),
    }
    for name, spec in study.tokenizers.items():
        for role, encoder in spec.encoders.items():
            key, use = keys[role]
            _check_encoder(f"tokenizers.{name}.{key}", encoder, use, study, problems)
    for metric in ("continuity", "reconstruction", "generation"):
        extractor = getattr(study.metrics, metric).extractor
        _check_encoder(f"metrics.{metric}.extractor", extractor, "features", study, problems)
    lpips = study.metrics.reconstruction.lpips
    if lpips is not None:
        _check_encoder("metrics.reconstruction.lpips", lpips, "lpips", study, problems)
    _check_inception(study, problems)
    reference = study.metrics.fisher.reference
    if reference is not None and reference not in study.tokenizers:
        problems.unknown("metrics.fisher.reference", reference, "tokenizer", study.tokenizers)
    if study.metrics.fisher.learned is not None:
        where, chosen = "metrics.fisher.learned.backbones", study.metrics.fisher.learned.backbones
        _check_list(where, chosen, "backbone", study.backbones, problems)


def _check_encoder(where: str, name: str, use: Use, study: Study, problems: Problems) -> None:
    """An encoder must be declared, and of a kind that can serve in its role."""
    if name not in study.encoders:
        problems.unknown(where, name, "encoder", study.encoders)
    elif use not in study.encoders[name].uses:
        fit = sorted(n for n, spec in study.encoders.items() if use in spec.uses)
        problems.add(
            where,
            f"`{name}` is of kind {study.encoders[name].kind}, which does not serve for {use} "
            f"(declared here and fit: {', '.join(fit) or 'none'})",
        )


def _check_inception(study: Study, problems: Problems) -> None:
    """Only distances in Inception's features are called FID, and only they have ADM's reference."""
    reserved = (INCEPTION, INCEPTION_SPATIAL)
    for name, spec in study.encoders.items():
        if isinstance(spec, InceptionEncoder) != (name in reserved):
            problems.add(
                f"encoders.{name}",
                f"an encoder of kind inception is called `{INCEPTION}`, and no other is called "
                f"{' or '.join(f'`{taken}`' for taken in reserved)}: its distances are FID",
            )
    generation = study.metrics.generation
    if generation.reference_content is not None and generation.extractor != INCEPTION:
        problems.add(
            "metrics.generation.reference_statistics",
            f"holds moments of Inception features, the extractor is `{generation.extractor}`; "
            "leave it out, or name an extractor of kind inception",
        )


def _check_list(
    where: str,
    chosen: str | Iterable[str],
    kind: str,
    declared: Iterable[str],
    problems: Problems,
) -> None:
    if chosen == "all":
        return
    seen: set[str] = set()
    for name in chosen:
        if name not in declared:
            problems.unknown(where, name, kind, declared)
        if name in seen:
            problems.add(where, f"`{name}` stands twice")
        seen.add(name)


def _check_sizes(study: Study, problems: Problems) -> None:
    """Down-samplings must divide the image, and patches the latent grid."""
    size = study.dataset.size
    for name in study.selected_tokenizers:
        spec = study.tokenizers[name]
        factor = spec.factor
        key = "network.factor" if isinstance(spec, TokenizerSpec) else "factor"
        if size % factor:
            problems.add(
                f"tokenizers.{name}.{key}",
                f"{factor} does not divide the image size {size} of "
                f"`{study.select.dataset}`; the latent would not be a whole grid",
            )
            continue
        for backbone in study.selected_backbones:
            patch = study.backbones[backbone].patch
            if (size // factor) % patch:
                problems.add(
                    f"backbones.{backbone}.patch",
                    f"{patch} does not divide the {size // factor} x {size // factor} latent "
                    f"grid of `{name}`",
                )
    for name in study.used_encoders:
        encoder = study.encoders[name]
        if isinstance(encoder, LpipsEncoder) and size < encoder.smallest:
            problems.add(
                f"encoders.{name}",
                f"LPIPS needs images of {encoder.smallest} pixels a side, these have {size}",
            )
        factor = encoder.factor
        if size % factor:
            problems.add(
                f"encoders.{name}.factor", f"{factor} does not divide the image size {size}"
            )
        elif isinstance(encoder, MaskedEncoder):
            cells = (size // factor) ** 2
            hidden = round(encoder.ratio * cells)
            if not 0 < hidden < cells:
                problems.add(
                    f"encoders.{name}.ratio",
                    f"{encoder.ratio} hides {hidden} of {cells} cells of {factor} x {factor} "
                    "pixels; some must be hidden and some seen",
                )
