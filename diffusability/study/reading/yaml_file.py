"""Read YAML, of a file or of the command line, so that it means one thing, in bounded time."""

import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from diffusability.errors import StudyError
from diffusability.study.core.merge import merge
from diffusability.study.core.problems import MAX_DEPTH, MAX_VALUES, show
from diffusability.study.core.workflow_files import shown, workflow_folder

MAX_DIGITS = 19  # of an integer of 64 bits
_TAG = "tag:yaml.org,2002:"
_FORMER = yaml.SafeLoader.yaml_implicit_resolvers  # of YAML 1.1
_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*=")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2 scalars, keys that are text, and no duplicate keys.

    PyYAML follows YAML 1.1, in which 0100 is 64, 1:30 is 90 and `no` is false. What the two
    versions read differently is refused.
    """

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012 - the classes of PyYAML fill it

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _size(node, {}, 0)
        _check_scalars(node, set())
        return self.construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if key in seen:
                raise StudyError(f"line {line}: duplicate key `{key}` (first on line {seen[key]})")
            seen[key] = line
        return super().construct_mapping(node, deep)


for _name, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", "<<", "<"),
):
    _StrictLoader.add_implicit_resolver(
        _TAG + _name, re.compile(f"^(?:{_pattern})$"), [c.strip("\0") for c in _first]
    )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Keys are text, whatever they look like. Plain scalars that YAML 1.1 and 1.2 read differently
    (`0100`, `1:30`, `yes`, dates) are refused.

    Raises:
        StudyError: the file is missing, is not YAML, repeats a key, holds no mapping, or is too
            large once its aliases are expanded.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(
            f"{path}: no such study file; studies that come with the workflow are in "
            f"{shown(workflow_folder() / 'studies')}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read as text ({error})") from None
    data = _parsed(text, str(path))
    if not isinstance(data, dict):
        raise StudyError(
            f"{path}: a study is a mapping of keys, this file holds {reprlib.repr(data)}"
        )
    return data


def read_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Return what words such as `select={tokenizers: [a]}` lay on top of a study.

    They are written as for Snakemake's `--config`: a key of the study, `=`, and its value in YAML.

    Raises:
        StudyError: a word is no key with a value, or its value is not YAML; see `read_yaml`.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if not _OVERRIDE.match(word):
            raise StudyError(
                f"--config {show(word)}: is not KEY=VALUE, such as 'select={{tokenizers: [a]}}'"
            )
        found = merge(found, {key: _parsed(value, f"--config {key}")})
    return found


def _parsed(text: str, where: str) -> Any:
    """Return the value of a YAML text; `where` begins the messages of errors."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except StudyError as error:
        raise StudyError(f"{where}, {error}") from None
    except RecursionError:
        raise StudyError(f"{where}: lists or mappings are too deeply nested") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise StudyError(f"{where}: this is not YAML: {error}") from None


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return the number of values of a node, its aliases expanded, in the time of the text."""
    line = node.start_mark.line + 1
    if depth > MAX_DEPTH:  # also an alias to something that contains it
        raise StudyError(f"line {line}: more than {MAX_DEPTH} levels of lists and mappings")
    if id(node) not in known:
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        flat = [x for part in parts for x in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_size(part, known, depth + 1) for part in flat)
        if known[id(node)] > MAX_VALUES:
            raise StudyError(f"line {line}: aliases expand to more than {MAX_VALUES:,} values")
    return known[id(node)]


def _check_scalars(node: yaml.Node, seen: set[int]) -> None:
    """Turn keys into text, and refuse values that are ambiguous or too long."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise StudyError(f"line {key.start_mark.line + 1}: a key must be a plain name")
            if key.tag != f"{_TAG}merge":  # 010, 1e2 and true are names
                key.tag = f"{_TAG}str"
            _check_scalars(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_scalars(value, seen)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        _check_plain(node)


def _check_plain(node: yaml.ScalarNode) -> None:
    text, tag = node.value, node.tag
    former = next(
        (
            kind
            for kind, pattern in (*_FORMER.get(text[:1], ()), *_FORMER.get(None, ()))
            if pattern.match(text)
        ),
        f"{_TAG}str",
    )
    line = node.start_mark.line + 1
    octal = tag == f"{_TAG}int" and _LEADING_ZERO.match(text)
    if octal or (former != tag and former != f"{_TAG}str"):
        raise StudyError(
            f"line {line}: `{reprlib.repr(text)[1:-1]}` means one thing in YAML 1.1 and another in "
            f"1.2; write true, false or a decimal number, or put it in quotes if it is a name"
        )
    if tag == f"{_TAG}int" and len(text.lstrip("+-")) > MAX_DIGITS:
        raise StudyError(f"line {line}: a number of {len(text.lstrip('+-'))} digits is too large")
