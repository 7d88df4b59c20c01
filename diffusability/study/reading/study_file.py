"""The study file as it is written: flat tokenizers over bases, and the schema that editors read.

`StudyFile` describes the YAML; `resolve` turns the YAML into the typed `Study`.
"""

import json
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from diffusability.study.core.spec import Spec, is_computed
from diffusability.study.entries.backbone import PUBLISHED_SIZES, TransformerBackbone
from diffusability.study.entries.network import NETWORKS
from diffusability.study.entries.regularizer import REGULARIZERS
from diffusability.study.entries.tokenizer import TOKENIZER_SOURCES, LevelTokenizer
from diffusability.study.entries.trained_tokenizer import (
    ObjectiveSpec,
    TokenizerSpec,
    TokenizerTraining,
)
from diffusability.study.study import Study


def models_of(kind: Any) -> list[type[BaseModel]]:
    """Return the models that a key may hold directly."""
    options = [kind, *getattr(kind, "__args__", ())]
    return [m for m in options if isinstance(m, type) and issubclass(m, Spec)]


def written(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model that a study file may hold."""
    fields = {key: f for key, f in model.model_fields.items() if not is_computed(f)}
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
        or next((m.__doc__ or "" for m in models_of(field.annotation)), "").split("\n")[0]
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
    "base": _optional(str, "entry of `bases` whose keys this one extends or overrides"),
    "network": _optional(partial("NetworkOptions", NETWORKS.models()), "network and its size"),
    "objective": _optional(partial("ObjectiveOptions", [ObjectiveSpec]), "terms of the loss"),
    "gpus": (int | None, TokenizerSpec.model_fields["gpus"]),
    "train": _optional(partial("TrainOptions", [TokenizerTraining]), "how it is optimised"),
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
