"""From the mapping of a study file to typed data: bases under entries, names checked."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from diffusability.study.core.merge import merge
from diffusability.study.core.names import ENCODER_NAME, MAX_NAME, NAME
from diffusability.study.core.problems import Problems, nearest, show
from diffusability.study.core.registry import Registry
from diffusability.study.entries.backbone import BACKBONES
from diffusability.study.entries.dataset import DATASETS
from diffusability.study.entries.encoder import ENCODERS
from diffusability.study.entries.network import NETWORKS, HierarchicalNetwork
from diffusability.study.entries.regularizer import REGULARIZERS
from diffusability.study.entries.tokenizer import (
    TOKENIZER_SOURCES,
    DerivedTokenizer,
    LevelTokenizer,
    MeansTokenizer,
)
from diffusability.study.entries.tokenizer_entry import TokenizerEntry
from diffusability.study.entries.trained_tokenizer import (
    ObjectiveSpec,
    TokenizerSpec,
    TokenizerTraining,
)
from diffusability.study.reading.checks import check_parts
from diffusability.study.study import Study

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
    check_parts(study, data, declared, problems)
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
