"""From the mapping of a study file to typed data: bases under entries, names checked."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from diffusability.study.backbone import BACKBONES
from diffusability.study.dataset import DATASETS
from diffusability.study.declarable import declarable_metrics, declarable_targets
from diffusability.study.encoder import ENCODERS, InceptionEncoder, Use
from diffusability.study.generation import GenerationMetric
from diffusability.study.merge import merge
from diffusability.study.metrics import METRIC_GROUPS
from diffusability.study.names import ENCODER_NAME, INCEPTION, INCEPTION_SPATIAL, MAX_NAME, NAME
from diffusability.study.network import NETWORKS, HierarchicalNetwork
from diffusability.study.problems import Problems, nearest, show
from diffusability.study.registry import Registry
from diffusability.study.regularizer import REGULARIZERS
from diffusability.study.sizes import check_sizes
from diffusability.study.study import Study
from diffusability.study.tokenizer import (
    TOKENIZER_SOURCES,
    DerivedTokenizer,
    LevelTokenizer,
    MeansTokenizer,
    ObjectiveSpec,
    TokenizerEntry,
    TokenizerSpec,
    TokenizerTraining,
)

# keys of tokenizers whose network is that of another entry, by their source
DERIVED_KEYS = {"level": ("source", "of", "factor"), "means": ("source", "of")}
TAGGED: dict[str, Registry[Any]] = {
    "datasets": DATASETS,
    "encoders": ENCODERS,
    "backbones": BACKBONES,
}
SECTIONS = (*TAGGED, "tokenizers")
TOKENIZER_PARTS = ("network", "objective", "train")
EMPTY = (
    "holds no key; name a `source`, or a network, a method and its training, or a `base` of these"
)
TOKENIZER_OPTIONS = ("gpus",)  # of the entry itself; what is neither is an option of its method


def resolve_study(data: Mapping[str, Any], source: str) -> Study:
    """Return the typed study of a merged mapping.

    What one part of the file has wrong does not hide what is wrong with the others: names and sizes
    are checked among those parts that are valid.

    Raises:
        StudyError: listing every problem; `source` says where the mapping came from.
    """
    problems = Problems()
    resolved = {str(key): value for key, value in data.items()}
    bases = problems.mapping("bases", resolved.pop("bases", {}))
    for name, base in bases.items():  # also one that no tokenizer names
        problems.mapping_or_none(f"bases.{name}", base)
    declared = {
        section: problems.mapping(section, resolved.get(section, {})) for section in SECTIONS
    }
    for section, models in TAGGED.items():
        resolved[section] = _section(section, declared[section], models, problems)
    resolved["tokenizers"] = _tokenizers(declared["tokenizers"], bases, problems)
    study = _typed(resolved, declared, problems)
    valid = study.model_fields_set
    if "select" in valid:
        _check_select(study, declared, problems)
    _check_tokenizers(study, declared, problems)
    if "metrics" in valid:
        _check_metrics(study, declared, problems)
    if {"select", "analysis"} <= valid:
        _check_declared(study, declared, problems)
    if {"select", "metrics"} <= valid:
        if study.select.dataset in study.datasets:
            check_sizes(study, problems)
            _check_latents(study, problems)
        if "sampling" in valid or "sampling" not in data:
            _check_sampling(study, problems)
    problems.raise_any(source)
    return study


def _typed(
    resolved: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], problems: Problems
) -> Study:
    """Return the study, or a part of one that holds what is valid; problems are recorded."""
    known = Study.model_fields
    valid: dict[str, Any] = {}
    for key in resolved:
        if key not in known:
            problems.add(key, f"unknown key ({nearest(key, [*known, 'bases'])})")
    for key, field in known.items():
        if declared.get(key):
            valid[key] = _named(key, resolved[key], problems)
        elif key in resolved:
            problems.validate_field(key, resolved[key], Study, valid)
        elif field.is_required():
            problems.add(key, "this key is required")
    empty: dict[str, Any] = {section: {} for section in SECTIONS}
    return Study.model_construct(**(empty | valid))


def _named(section: str, entries: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """Return the typed entries of a section, once their names are valid."""
    pattern = ENCODER_NAME if section == "encoders" else NAME
    for name in entries:
        if len(name) > MAX_NAME:
            problems.add(
                f"{section}.{show(name)}", f"the name is longer than {MAX_NAME} characters"
            )
        elif not re.fullmatch(pattern, name):
            problems.add(f"{section}.{name}", f"the name does not match the pattern {pattern}")
    return dict(entries)


def _section(
    section: str, entries: Mapping[str, Any], models: Registry[Any], problems: Problems
) -> dict[str, BaseModel]:
    found = {
        name: problems.validate_tagged(f"{section}.{name}", entry, models.tag, models)
        for name, entry in entries.items()
    }
    return {name: spec for name, spec in found.items() if spec is not None}


def _tokenizers(
    entries: Mapping[str, Any], bases: Mapping[str, Any], problems: Problems
) -> dict[str, BaseModel]:
    found: dict[str, BaseModel] = {}
    derived: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        where = f"tokenizers.{name}"
        flat = _inherit(where, entry, bases, problems, ())
        if flat is None:
            continue
        if not flat:
            problems.add(where, EMPTY)
            continue
        if isinstance(flat.get("source"), str) and flat["source"] in DERIVED_KEYS:
            derived[name] = flat
            continue
        if "source" in flat:
            spec: TokenizerEntry | None = problems.validate_tagged(
                where, flat, "source", TOKENIZER_SOURCES
            )
        else:
            spec = _tokenizer(where, flat, problems)
        if spec is not None:
            found[name] = spec
    for name, flat in derived.items():
        spec = _derived(f"tokenizers.{name}", flat, entries, found, problems)
        if spec is not None:
            found[name] = spec
    return {name: found[name] for name in entries if name in found}


def _derived(
    where: str,
    flat: Mapping[str, Any],
    entries: Mapping[str, Any],
    found: Mapping[str, BaseModel],
    problems: Problems,
) -> DerivedTokenizer | None:
    """Return what a trained tokenizer also offers, with that one's network."""
    keys = DERIVED_KEYS[flat["source"]]
    missing = [key for key in keys if key not in flat]
    if missing:
        problems.add(where, f"the key `{missing[0]}` is required")
        return None
    for key in flat:
        if key not in keys:
            problems.unknown(f"{where}.{key}", key, "key", keys)
    of = flat["of"]
    trained = found.get(of) if isinstance(of, str) else None
    if not isinstance(of, str):
        problems.add(f"{where}.of", f"expected the name of a tokenizer, got {show(of)}")
    elif of not in entries:
        problems.unknown(f"{where}.of", of, "tokenizer", entries)
    elif isinstance(trained, TokenizerSpec):
        if flat["source"] == "level":
            return _level(where, of, flat["factor"], trained, problems)
        method = trained.regularizer.method
        return MeansTokenizer(source="means", of=of, network=trained.network, method=method)
    elif trained is not None:  # else its own problem is listed
        problems.add(f"{where}.of", f"`{of}` is not a tokenizer that is trained here")
    return None


def _level(
    where: str, of: str, factor: Any, trained: TokenizerSpec, problems: Problems
) -> LevelTokenizer | None:
    """Return another level of a hierarchical tokenizer."""
    network = trained.network
    if not isinstance(network, HierarchicalNetwork):
        problems.add(f"{where}.of", f"`{of}` is not a trained tokenizer of arch hierarchical")
    elif type(factor) is not int or factor not in network.levels:  # 4.0 and true are no level
        problems.add(
            f"{where}.factor", f"{show(factor)} is none of the levels {list(network.levels)}"
        )
    else:
        offered = network.model_copy(update={"factor": factor})
        return LevelTokenizer(source="level", of=of, network=offered)
    return None


def _inherit(
    where: str,
    data: Any,
    bases: Mapping[str, Any],
    problems: Problems,
    chain: tuple[str, ...],
) -> dict[str, Any] | None:
    """Return the entry merged into its base, and that into its own; None after a problem."""
    entry = problems.mapping_or_none(where, data)
    if entry is None:
        return None
    base = entry.pop("base", None)
    if base is None:
        return entry
    if not isinstance(base, str):
        problems.add(f"{where}.base", f"expected the name of an entry of `bases`, got {show(base)}")
        return None
    if base in chain:
        problems.add(f"bases.{base}.base", f"refers to itself: {' -> '.join([*chain, base])}")
        return None
    if base not in bases:
        problems.unknown(f"{where}.base", base, "base", bases)
        return None
    below = _inherit(f"bases.{base}", bases[base], bases, problems, (*chain, base))
    return None if below is None else merge(below, entry)


def _tokenizer(where: str, flat: Mapping[str, Any], problems: Problems) -> TokenizerSpec | None:
    """Split a flat entry into its parts; what belongs to none is an option of its method."""
    network = problems.validate_tagged(
        f"{where}.network", flat.get("network", {"arch": None}), "arch", NETWORKS
    )
    own = {k: v for k, v in flat.items() if k in TOKENIZER_OPTIONS}
    options = {k: v for k, v in flat.items() if k not in (*TOKENIZER_PARTS, *own)}
    regularizer = problems.validate_tagged(
        where, options or {"method": None}, "method", REGULARIZERS
    )
    objective = problems.validate(f"{where}.objective", flat.get("objective", {}), ObjectiveSpec)
    train = None
    if "train" in flat:
        train = problems.validate(f"{where}.train", flat["train"], TokenizerTraining)
    else:
        problems.add(f"{where}.train", "this key is required")
    parts = {"network": network, "regularizer": regularizer, "objective": objective, "train": train}
    if any(part is None for part in parts.values()):
        return None
    return problems.validate(where, parts | own, TokenizerSpec)


def _check_select(
    study: Study, declared: Mapping[str, Mapping[str, Any]], problems: Problems
) -> None:
    """What is selected must be declared."""
    select = study.select
    tokenizers, backbones = declared["tokenizers"], declared["backbones"]
    if select.dataset not in declared["datasets"]:
        problems.unknown("select.dataset", select.dataset, "dataset", declared["datasets"])
    _check_list("select.tokenizers", select.tokenizers, "tokenizer", tokenizers, problems)
    _check_list("select.backbones", select.backbones, "backbone", backbones, problems)
    _check_list("select.repeats", select.repeats, "tokenizer", tokenizers, problems)


def _check_tokenizers(
    study: Study, declared: Mapping[str, Mapping[str, Any]], problems: Problems
) -> None:
    """The encoders that tokenizers are trained with must be declared, and fit."""
    keys: dict[str, tuple[str, Use]] = {
        "encoder": ("encoder", "alignment"),
        "perceptual": ("objective.perceptual_encoder", "perceptual"),
    }
    for name, spec in study.tokenizers.items():
        for role, encoder in spec.encoders.items():
            key, use = keys[role]
            _check_encoder(f"tokenizers.{name}.{key}", encoder, use, study, declared, problems)


def _check_metrics(
    study: Study, declared: Mapping[str, Mapping[str, Any]], problems: Problems
) -> None:
    """The encoders, tokenizers and backbones that metrics name must be declared, and fit."""
    groups = study.metrics.groups
    selected = study.select.metrics if "select" in study.model_fields_set else "all"
    for name in () if selected == "all" else selected:
        if name not in groups:
            problems.add(
                "select.metrics", f"`{name}` is not declared; add `{name}: {{}}` to metrics"
            )
    uses: dict[str, Use] = {"extractor": "features", "lpips": "lpips"}
    for metric, options in groups.items():
        for role, encoder in options.encoders.items():
            where = f"metrics.{metric}.{role}"
            _check_encoder(where, encoder, uses[role], study, declared, problems)
    _check_inception(study, problems)
    fisher, generation = study.metrics.fisher, study.metrics.generation
    if fisher is not None and fisher.reference not in (None, *declared["tokenizers"]):
        where, known = "metrics.fisher.reference", declared["tokenizers"]
        problems.unknown(where, fisher.reference, "tokenizer", known)
    if fisher is not None and fisher.learned is not None:
        where, chosen = "metrics.fisher.learned.backbones", fisher.learned.backbones
        _check_list(where, chosen, "backbone", declared["backbones"], problems)
    if generation is not None:
        _check_generation(generation, study, declared, problems)
    elif declared["backbones"]:
        problems.add(
            "metrics.generation",
            "this key is required: it says how images that the `backbones` generate are judged; "
            "a study without diffusion models has no `backbones`",
        )
    if generation is None and not groups:
        problems.add("metrics", f"nothing is measured; name one of {', '.join(METRIC_GROUPS)}")


def _check_generation(
    generation: GenerationMetric,
    study: Study,
    declared: Mapping[str, Mapping[str, Any]],
    problems: Problems,
) -> None:
    """Its extractors must be declared, and those of FDr6 be six different ones."""
    extractor = generation.extractor
    _check_encoder("metrics.generation.extractor", extractor, "features", study, declared, problems)
    if generation.reference_content is not None and extractor != INCEPTION:
        problems.add(
            "metrics.generation.reference_statistics",
            f"holds moments of Inception features, the extractor is `{extractor}`; "
            "leave it out, or name an extractor of kind inception",
        )
    where, names = "metrics.generation.fdr6", generation.fdr6 or ()
    for name in dict.fromkeys(names):
        _check_encoder(where, name, "features", study, declared, problems)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        problems.add(where, f"`{name}` is named {names.count(name)} times; six spaces must differ")


def _check_encoder(
    where: str,
    name: str,
    use: Use,
    study: Study,
    declared: Mapping[str, Mapping[str, Any]],
    problems: Problems,
) -> None:
    """An encoder must be declared, and of a kind that can serve in its role."""
    if name not in declared["encoders"]:
        problems.unknown(where, name, "encoder", declared["encoders"])
    elif name in study.encoders and use not in study.encoders[name].uses:
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


def _check_declared(
    study: Study, declared: Mapping[str, Mapping[str, Any]], problems: Problems
) -> None:
    """Declared tests must be of what the study measures; `select` may leave some of it out."""
    tests = study.analysis.declared
    if tests is None:
        return
    _check_list(
        "analysis.declared.backbones", tests.backbones, "backbone", declared["backbones"], problems
    )
    families = {tokenizer.family: None for tokenizer in study.tokenizers.values()}
    for family in tests.families:
        if family not in families:
            problems.unknown("analysis.declared.families", family, "family", families)
    if "metrics" not in study.model_fields_set:
        return
    where, shown = "analysis.declared.metrics", declarable_metrics(study.metrics)
    _check_list(where, tests.metrics, "metric", shown, problems)
    generation = study.metrics.generation
    targets = () if generation is None else declarable_targets(generation)
    if tests.target not in targets:
        problems.unknown("analysis.declared.target", tests.target, "metric", targets)


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
            problems.add(where, f"`{name}` is named twice")
        seen.add(name)


def _check_latents(study: Study, problems: Problems) -> None:
    """Latents on disk generate no images, and what is measured must be there."""
    makers = ["`backbones`"] if study.has_models else []
    makers += ["`metrics.generation.controls`"] if study.controls else []
    for name in study.selected_tokenizers:
        entry = study.tokenizers[name]
        if makers and not entry.decodes:
            what = "features of an encoder" if entry.encodes else "latents on disk"
            problems.add(
                f"tokenizers.{name}",
                f"{what} have no decoder, so no images can be generated from them; leave it out "
                f"of `select.tokenizers`, or {' and '.join(makers)} out of the study",
            )
        if not study.dataset.has_images and entry.encodes:
            problems.add(
                f"tokenizers.{name}",
                f"the dataset `{study.select.dataset}` has no images that it could encode",
            )
    if not study.dataset.has_images:
        for metric, options in study.selected_metrics.items():
            if not study.dataset.counts().of(options.split):
                problems.add(
                    f"metrics.{metric}.split",
                    f"`{study.select.dataset}` has no validation split; write `split: all`",
                )


def _check_sampling(study: Study, problems: Problems) -> None:
    """Guidance needs labels, and EDM's levels at least two steps."""
    sampling = study.sampling
    for name in sampling.guidance_of:
        if name not in study.backbones:
            hint = nearest(name, study.backbones)
            problems.add(f"sampling.guidance_of.{name}", f"unknown backbone ({hint})")
    for name in study.selected_backbones:
        backbone = study.backbones[name]
        scales = [f"{scale:g}" for scale in sampling.scales(name) if scale != 1]
        if scales and not backbone.conditional:
            problems.add(
                f"backbones.{name}.class_dropout",
                f"1 trains an unconditional model, which guidance at {', '.join(scales)} cannot "
                "steer; leave these scales out of sampling.guidance, or the backbone out of select",
            )
        if backbone.process == "edm" and sampling.steps < 2:
            problems.add(
                "sampling.evaluations",
                f"{sampling.evaluations} is one step of {sampling.solver}; the levels of `{name}` "
                "(process edm) need two",
            )
