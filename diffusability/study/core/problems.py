"""Turn what is wrong with a study file into sentences: key path, reason, nearest valid name."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from diffusability.errors import StudyError
from diffusability.study.core.names import MAX_NAME
from diffusability.study.core.spec import is_computed

Model = TypeVar("Model", bound=BaseModel)
MAX_VALUES = 100_000  # of a study, aliases expanded; the largest here has 3,000
MAX_DEPTH = 50  # of mappings and lists in each other
MAX_NAMES = 40  # of a hint
_BRANCH = re.compile(r"(literal|tuple|list|dict|function-[a-z]+|nullable)\[.*\]")
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
    """Return a hint that names the closest valid name, or lists the first when none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(str(name)[:MAX_NAME], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"valid: {', '.join(names[:MAX_NAMES])}{more}" if names else "none is declared"


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
        given = data if isinstance(data, Mapping) else {}
        computed = [k for k, f in model.model_fields.items() if is_computed(f) and k in given]
        for key in computed:
            self.add(f"{where}.{key}", "follows from the other keys and cannot be set; remove it")
        if computed:
            return None
        try:
            return model.model_validate(data)
        except ValidationError as error:
            self._add_all(where, _items(error), model)
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
            items = [{**item, "loc": (key, *item["loc"])} for item in _items(error)]
            self._add_all("", items, model)

    def _add_all(self, where: str, items: Iterable[Any], model: type[BaseModel]) -> None:
        for item in items:
            path = ".".join([where, *(str(part) for part in item["loc"])])
            self.add(path.strip("."), _reason(item, model))

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


def _items(error: ValidationError) -> list[dict[str, Any]]:
    """Return pydantic's errors, one per mistake: of a union only those of the branch that fits."""
    items: list[dict[str, Any]] = []
    for entry in error.errors(include_url=False):
        # the path names the branch of a union, as `tuple[str, ...]`
        loc = tuple(part for part in entry["loc"] if not _BRANCH.fullmatch(str(part)))
        items.append({**entry, "loc": loc})
    deeper = {item["loc"][:n] for item in items for n in range(len(item["loc"]))}
    items = [item for item in items if item["loc"] not in deeper]  # follows from the deeper one
    names = {item["loc"]: item for item in items if item["type"] == "literal_error"}
    others = [item for item in items if item["type"] != "literal_error"]
    for item in others:
        if name := names.pop(item["loc"], None):
            item["or"] = name["ctx"]["expected"].replace("'", "`")
    return [*others, *names.values()]


_EXPECTED = {  # pydantic's word for a type: the study file's
    **dict.fromkeys(("dict_type", "mapping_type", "model_type"), "a mapping of keys to values"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "a text",
}


def _reason(item: Any, model: type[BaseModel]) -> str:
    kind, context, given = item["type"], item.get("ctx", {}), item["input"]
    got = f", got {show(given)}"
    match kind:
        case "extra_forbidden":
            beside = _model_at(model, item["loc"][:-1]).model_fields
            return f"unknown key ({nearest(item['loc'][-1], beside)})"
        case "missing":
            short = isinstance(item["loc"][-1], int)  # an entry of a list of fixed length
            return f"is missing from the list{got}" if short else "this key is required"
        case "literal_error":
            options = [o.strip() for o in context["expected"].replace(" or ", ", ").split(",")]
            names = [option.strip("'") for option in options]
            return f"unknown value `{_plain(given)}` ({nearest(given, names)})"
        case "value_error":
            return str(context["error"])
        case "tuple_type" | "list_type":
            example = given if isinstance(given, str | int | float) else "..."
            other = f", or {item['or']}" if "or" in item else ""
            return f"expected a list such as [{example}]{other}{got}"
        case "too_short":
            return f"expected at least {context['min_length']} in the list{got}"
    quotes = "; a name that reads as a number or a truth value needs quotes"
    hint = quotes if kind == "string_type" and isinstance(given, int | float) else ""
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}{got}{hint}"
    return f"{item['msg'][0].lower()}{item['msg'][1:]}{got}"


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
