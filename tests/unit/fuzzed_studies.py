"""Study files drawn from the model of the file: nearly right, in one to three places anything."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

from diffusability.errors import DiffusabilityError
from diffusability.study.core.workflow_files import NO_FILE
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight.cost import Costs
from diffusability.study.reading.load import load_study, read_yaml
from diffusability.study.reading.study_file import schema
from tests.conftest import REPOSITORY

SCHEMA = json.loads(schema())
BEGUN = [
    read_yaml(REPOSITORY / file)
    for file in (
        "studies/smoke.yaml",
        "studies/fashion.yaml",
        "config.yaml",
        "studies/fisher_images.yaml",
    )
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**53 + 1, 10**400, -(10**400), 0.0, 1e-300, 1e300, 1e7, 0.1),
    *(float("nan"), float("inf"), "", "nan", "true", "010", "1e2", "none", "all", "val", "x" * 300),
    *("../x", "a/b", "{x}", "$(x)", "\0", "é", "\n", b"bytes", "9" * 400, "conv-base", "digits"),
    *([], {}, [[]], [None], ["x", "x"], [True], {"": 1}, {1: 1, "1": 2}, {None: 1}, {"x": {}}),
]
TEXT = st.sampled_from([value for value in ODD if isinstance(value, str)])
ANY = st.sampled_from(ODD) | st.integers() | st.floats() | TEXT


def of_model(node: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Return values that a part of the file's schema allows, and some that it does not."""
    if "$ref" in node:
        return of_model(SCHEMA["$defs"][node["$ref"].rpartition("/")[2]], depth)
    options = [option for key in ("anyOf", "oneOf") for option in node.get(key, ())]
    if depth > 4:
        return ANY
    if options:
        return st.one_of(*(of_model(option, depth + 1) for option in options))
    if "enum" in node or "const" in node:
        return st.sampled_from(node.get("enum") or [node["const"]]) | ANY
    if "properties" in node:
        parts = {k: of_model(v, depth + 1) for k, v in node["properties"].items()}
        chosen = st.lists(st.sampled_from(sorted(parts)), max_size=6, unique=True)
        needed = node.get("required", [])
        return chosen.flatmap(
            lambda keys: st.fixed_dictionaries({k: parts[k] for k in {*keys, *needed}})
        )
    if node.get("type") == "object":
        inner = node.get("additionalProperties")
        values = of_model(inner, depth + 1) if isinstance(inner, dict) else ANY
        return st.dictionaries(TEXT, values, max_size=3)
    if node.get("type") == "array":
        return st.lists(of_model(node.get("items", {}), depth + 1), max_size=4)
    kinds = {"integer": st.integers(-2, 300), "number": st.floats(0, 3), "boolean": st.booleans()}
    return kinds.get(node.get("type", ""), ANY) | ANY


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in nested mappings and lists."""
    parts: Any = value.items() if isinstance(value, dict) else ()
    parts = enumerate(value) if isinstance(value, list) else parts
    found = [path] if path else []
    for key, part in parts:
        found += paths(part, (*path, key))
    return found


def _copied(draw: st.DrawFn) -> Any:
    return copy.deepcopy(draw(ANY))


@st.composite
def studies(draw: st.DrawFn) -> Any:
    """Draw a study with one to three values replaced, removed or added.

    Values are copied: a later change inside one would also change what is drawn next.
    """
    study = copy.deepcopy(draw(st.sampled_from(BEGUN)))
    for _ in range(draw(st.integers(1, 3))):
        places = paths(study)
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        inner = study
        for part in parents:
            inner = inner[part]
        what = draw(st.sampled_from(["replace", "replace", "remove", "add", "section"]))
        if what == "remove":
            del inner[last]
        elif what == "add" and isinstance(inner, dict):
            inner[draw(TEXT | st.sampled_from(["train", "base", "split", "seed"]))] = _copied(draw)
        elif what == "section":
            key = draw(st.sampled_from(sorted(SCHEMA["properties"])))
            study[key] = copy.deepcopy(draw(of_model(SCHEMA["properties"][key])))
        else:
            inner[last] = _copied(draw)
    return study


def plan_or_refuse(study: Any) -> bool:
    """Resolve, plan and price a study; return whether it was accepted.

    Anything but an acceptance or an error with a message for the user is raised.
    """
    try:
        found = load_study(NO_FILE, study)
        plan, costs = Plan(found), Costs(found)
        for artifact in plan:
            artifact.job()
            costs.work(artifact)
    except DiffusabilityError as error:
        if not str(error):  # no message for the user
            raise
        return False
    return True
