"""Turn what is wrong with a study file into sentences: key path, reason, nearest valid name."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from diffusability.errors import StudyError
from diffusability.study.names import MAX_NAME

Model = TypeVar("Model", bound=BaseModel)
MAX_VALUES, MAX_DEPTH = 100_000, 50  # of a study
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 60


def show(value: object) -> str:
    """Return a value for a message, shortened where it is long."""
    return _shown.repr(value)


def check_values(data: object, source: str) -> None:
    """Refuse a mapping that contains itself, or too much, before anything walks through it.

    Raises:
        StudyError: saying how much is too much.
    """
    level, count = [data], 0
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, Mapping | list | tuple)
            for inner in (value.values() if isinstance(value, Mapping) else value)
        ]
        count += len(level)
        if not level:
            return
        if count > MAX_VALUES:
            raise StudyError(f"{source}: a study of more than {MAX_VALUES:,} values")
    raise StudyError(f"{source}: more than {MAX_DEPTH} levels of lists and mappings")


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return a hint that names the closest valid name, or lists them all when none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(str(name)[:MAX_NAME], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"valid: {', '.join(names)}" if names else "none is declared"


class Problems:
    """Collects every problem of a study file, so that one run names them all."""

    def __init__(self) -> None:
        """Start with none."""
        self.lines: list[str] = []

    def add(self, where: str, reason: str) -> None:
        """Record that the value at the key path `where` is wrong."""
        line = f"{where}: {reason}"
        if line not in self.lines:  # several tokenizers share a base
            self.lines.append(line)

    def unknown(self, where: str, name: object, kind: str, valid: Iterable[str]) -> None:
        """Record that `name` at the key path `where` is no known `kind`."""
        self.add(where, f"unknown {kind} `{_plain(name)}` ({nearest(name, valid)})")

    def mapping(self, where: str, value: object) -> dict[str, Any]:
        """Return `value` if it is a mapping, else record the problem and return an empty one."""
        return self.mapping_or_none(where, value) or {}

    def mapping_or_none(self, where: str, value: object) -> dict[str, Any] | None:
        """Return `value`, which may be empty, if it is a mapping, else record the problem."""
        if not isinstance(value, Mapping):
            self.add(where, f"expected a mapping of names to values, got {show(value)}")
            return None
        found: dict[str, Any] = {}
        for key, inner in value.items():
            if str(key) in found:
                self.add(where, f"duplicate key `{key}`")
            found[str(key)] = inner
        return found

    def validate(self, where: str, data: object, model: type[Model]) -> Model | None:
        """Return `data` as `model`, or record every reason why it is none."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                path = ".".join([where, *(str(part) for part in item["loc"])])
                self.add(path.strip("."), _reason(item, model))
            return None

    def validate_field(
        self, key: str, data: object, model: type[BaseModel], into: dict[str, Any]
    ) -> None:
        """Put the value of one field of a model under its key, or record why it is none."""
        field = model.model_fields[key]
        kind: Any = Annotated[field.annotation, field]
        try:
            into[key] = TypeAdapter(kind).validate_python(data)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                path = ".".join([key, *(str(part) for part in item["loc"])])
                inner = {**item, "loc": (key, *item["loc"])}
                self.add(path, _reason(inner, model))

    def validate_tagged(
        self, where: str, data: object, tag: str, models: Mapping[str, type[Model]]
    ) -> Model | None:
        """Return `data` as the model that its key `tag` names, or record why it cannot be."""
        entry = self.mapping_or_none(where, data)
        if entry is None:
            return None
        if tag not in entry:
            self.add(where, f"the key `{tag}` is required (one of {', '.join(models)})")
            return None
        if str(entry[tag]) not in models:
            self.unknown(f"{where}.{tag}", entry[tag], tag, models)
            return None
        return self.validate(where, entry, models[str(entry[tag])])

    def raise_any(self, source: str) -> None:
        """Raise one StudyError that lists all problems, if there are any."""
        if self.lines:
            count = "1 problem" if len(self.lines) == 1 else f"{len(self.lines)} problems"
            listing = "\n".join(f"  {line}" for line in self.lines)
            raise StudyError(f"{source}: {count}; aborted before any job started\n{listing}")


def _reason(item: Any, model: type[BaseModel]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        beside = _model_at(model, item["loc"][:-1]).model_fields
        return f"unknown key ({nearest(item['loc'][-1], beside)})"
    if kind == "missing":
        return "this key is required"
    if kind == "literal_error":
        options = [o.strip(" '") for o in context["expected"].replace(" or ", ", ").split(",")]
        return f"unknown value `{_plain(item['input'])}` ({nearest(item['input'], options)})"
    if kind == "value_error":
        return str(context["error"])
    quotes = "; a name that reads as a number or a truth value needs quotes"
    hint = quotes if kind == "string_type" and isinstance(item["input"], int | float) else ""
    return f"{item['msg'][0].lower()}{item['msg'][1:]}, got {show(item['input'])}{hint}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= MAX_NAME else show(value)


def _model_at(model: type[BaseModel], location: Iterable[Any]) -> type[BaseModel]:
    """Follow a location through nested models; parts that are no field stay where they are."""
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        for inner in (annotation, *get_args(annotation)):  # of an optional field its arguments
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return model
