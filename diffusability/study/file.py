"""The study file as it is written: flat tokenizers over bases, and what is generated from it.

`StudyFile` describes the YAML; `resolve` turns the YAML into the typed `Study`. From it come the
JSON schema for editors (docs/study.schema.json) and the page of all options (docs/options.md):

    python -m diffusability.study.file docs
"""

import json
import sys
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from diffusability.study.backbone import (
    BACKBONES,
    PUBLISHED_SIZES,
    DiffusionTraining,
    TransformerBackbone,
)
from diffusability.study.dataset import DATASETS
from diffusability.study.encoder import ENCODERS
from diffusability.study.network import NETWORKS
from diffusability.study.registry import Registry
from diffusability.study.regularizer import REGULARIZERS
from diffusability.study.spec import Spec, TrainSpec
from diffusability.study.study import Study
from diffusability.study.tokenizer import TOKENIZER_SOURCES, LevelTokenizer, ObjectiveSpec

SCHEMA, OPTIONS = "study.schema.json", "options.md"
Entries = tuple[str, str, Registry[Any]]  # heading, key path, models
ENTRIES: tuple[Entries, ...] = (
    ("Datasets", "datasets.<name>", DATASETS),
    ("Encoders", "encoders.<name>", ENCODERS),
    ("Tokenizers that are trained: network", "tokenizers.<name>.network", NETWORKS),
    ("Tokenizers that are trained: regularizer", "tokenizers.<name>", REGULARIZERS),
    ("Tokenizers that are not trained", "tokenizers.<name>", TOKENIZER_SOURCES),
    ("Backbones", "backbones.<name>", BACKBONES),
)


def _models(kind: Any) -> list[type[BaseModel]]:
    """Return the models that a key may hold directly."""
    options = [kind, *getattr(kind, "__args__", ())]
    return [m for m in options if isinstance(m, type) and issubclass(m, Spec)]


def computed(field: FieldInfo) -> bool:
    """Return whether a field follows from others, and is no key of the file."""
    return isinstance(field.json_schema_extra, dict) and bool(
        field.json_schema_extra.get("computed")
    )


def written(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model that a study file may hold."""
    fields = {key: f for key, f in model.model_fields.items() if not computed(f)}
    if model is LevelTokenizer:  # its network is that of `of`
        fields["factor"] = FieldInfo(annotation=int, description="one of that network's `levels`")
        del fields["network"]
    if issubclass(model, TransformerBackbone):
        sizes: Any = Literal[tuple(PUBLISHED_SIZES)]
        fields["size"] = FieldInfo(
            annotation=sizes,
            default=None,
            description="a published size, in place of width, depth and heads",
        )
    return fields


def description(field: FieldInfo) -> str:
    """Return what a key means: its own words, or the first line of its model."""
    found = (
        field.description
        or next((m.__doc__ or "" for m in _models(field.annotation)), "").split("\n")[0]
    )
    options = getattr(field.annotation, "__args__", ())
    if not found and getattr(field.annotation, "__origin__", None) is Literal:
        found = "the kind" if len(options) == 1 else ""  # the tag of an entry
    return found


def partial(name: str, models: Iterable[type[BaseModel]], **further: Any) -> type[BaseModel]:
    """Return a model with the keys of all `models`, each optional: a base may give the others."""
    kinds: dict[str, list[Any]] = {}
    texts: dict[str, dict[str, None]] = {}
    for model in models:
        for key, field in written(model).items():
            kinds.setdefault(key, []).append(_annotated(field))
            texts.setdefault(key, {})[description(field)] = None
    fields: dict[str, Any] = {
        key: (
            reduce(or_, [*dict.fromkeys(options), None]),
            Field(None, description="; or: ".join(text for text in texts[key] if text)),
        )
        for key, options in kinds.items()
    }
    return create_model(name, __config__=ConfigDict(extra="forbid"), **(fields | further))


def _annotated(field: FieldInfo) -> Any:
    kind: Any = field.annotation
    return Annotated[(kind, *field.metadata)] if field.metadata else kind


def _optional(kind: Any, description: str) -> tuple[Any, Any]:
    return kind | None, Field(None, description=description)


_PARTS: dict[str, Any] = {
    "base": _optional(str, "entry of `bases` that this one is laid over"),
    "network": _optional(partial("NetworkOptions", NETWORKS.models()), "network and its size"),
    "objective": _optional(partial("ObjectiveOptions", [ObjectiveSpec]), "terms of the loss"),
    "train": _optional(partial("TrainOptions", [TrainSpec]), "how it is optimised"),
}
TokenizerFile = partial(
    "TokenizerFile", [*REGULARIZERS.models(), *TOKENIZER_SOURCES.models()], **_PARTS
)


def _study_file() -> type[BaseModel]:
    fields: dict[str, Any] = {
        key: (_annotated(field), field) for key, field in Study.model_fields.items()
    }
    named = dict[str, TokenizerFile]  # type: ignore[valid-type]
    fields["tokenizers"] = (named, Field(description=Study.model_fields["tokenizers"].description))
    fields["bases"] = (
        named,
        Field({}, description="parts of tokenizers that several entries share"),
    )
    return create_model("StudyFile", __config__=ConfigDict(extra="forbid"), **fields)


StudyFile = _study_file()


def schema() -> str:
    """Return the JSON schema of a study file."""
    found = StudyFile.model_json_schema()
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    _as_written(found)
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _as_written(node: Any) -> None:
    if isinstance(node, dict):
        properties = node.get("properties")
        if isinstance(properties, dict):
            for key in [k for k, v in properties.items() if isinstance(v, dict)]:
                if properties[key].pop("computed", False):
                    del properties[key]
                    node["required"] = [k for k in node.get("required", []) if k != key]
            for key, value in properties.items():
                if isinstance(value, dict) and value.pop("filled", False):
                    node["required"] = [k for k in node["required"] if k != key]
            if {"width", "depth", "heads", "process"} <= set(properties):
                text = "a published size, in place of width, depth and heads"
                properties["size"] = {"enum": list(PUBLISHED_SIZES), "description": text}
                fixed = ("width", "depth", "heads")  # by the size of a transformer backbone
                node["required"] = [k for k in node["required"] if k not in fixed]
        for value in node.values():
            _as_written(value)
    elif isinstance(node, list):
        for value in node:
            _as_written(value)


def options_page() -> str:
    """Return the page of all keys of a study file: type, default, description."""
    lines = [
        "# Options",
        "",
        "All keys of a study file. Generated by `python -m diffusability.study.file docs`.",
        "A tokenizer entry may name a `base`, an entry of `bases` that it is laid over.",
    ]
    for key, field in Study.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, Spec):
            lines += _table(f"## {key}", model, key)
    scalars = {k: f for k, f in Study.model_fields.items() if k in ("name", "report")}
    lines += ["", "## Top level", "", *_rows(scalars)]
    for heading, path, models in ENTRIES:
        lines += ["", f"## {heading}", "", f"Under `{path}`."]
        for model in models.models():
            names = ", ".join(name for name, found in models.items() if found is model)
            lines += _table(f"### {models.tag}: {names}", model, path)
    lines += _table("## Objective of a tokenizer", ObjectiveSpec, "tokenizers.<name>.objective")
    lines += _table("## Training", TrainSpec, "train")
    own = {k: f for k, f in written(DiffusionTraining).items() if k not in TrainSpec.model_fields}
    lines += ["", "In a backbone's `train` also:", "", *_rows(own)]
    return "\n".join(lines) + "\n"


def _table(heading: str, model: type[BaseModel], path: str) -> list[str]:
    text = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    lines = ["", heading, "", text, "", *_rows(written(model))]
    for key, field in written(model).items():
        for inner in _models(field.annotation):
            if not issubclass(inner, TrainSpec):
                lines += _table(f"#### {path}.{key}", inner, f"{path}.{key}")
    return lines


def _rows(fields: Mapping[str, FieldInfo]) -> list[str]:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in fields.items():
        cells = (f"`{key}`", _kind(field), _default(field), description(field))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _kind(field: FieldInfo) -> str:
    limits = []
    for rule in field.metadata:
        signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
        limits += [f"{s} {getattr(rule, n)}" for n, s in signs.items() if hasattr(rule, n)]
    return ", ".join([_type_name(field.annotation), *limits])


def _type_name(kind: Any) -> str:
    origin: Any = getattr(kind, "__origin__", None)
    arguments: tuple[Any, ...] = getattr(kind, "__args__", ())
    if hasattr(kind, "__metadata__"):
        return _type_name(origin)
    if kind is type(None):
        return "none"
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is tuple:
        return "list of " + _type_name(arguments[0])
    if origin is dict:
        return f"mapping of names to {_type_name(arguments[1])}"
    if arguments:
        return " or ".join(dict.fromkeys(_type_name(part) for part in arguments))
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    name = getattr(kind, "__name__", str(kind))
    return names.get(name, "mapping")


def _default(field: FieldInfo) -> str:
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("filled"):
        return "filled in"
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else ""
    if isinstance(field.default, BaseModel):
        return "its own defaults"
    if field.default is None:
        return "none"
    return f"`{json.dumps(field.default)}`"


def write(folder: Path) -> None:
    """Write the schema and the page of options."""
    (folder / SCHEMA).write_text(schema(), encoding="utf-8")
    (folder / OPTIONS).write_text(options_page(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
