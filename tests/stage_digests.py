"""A digest of the code behind every stage, so that no change of meaning goes by unversioned.

`python -m tests.stage_digests --accept` writes the digests of the present code.
"""

import ast
import hashlib
import importlib
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

from diffusability.study.core.registry import Registry
from diffusability.study.planning.stages import STAGES, stage_code

FILE = Path(__file__).with_name("stage_digests.json")
PACKAGE = "diffusability"
# code that decides how work is stored, shown or interrupted, and not what comes out; the typed
# study is left out too, because its resolved values are in every fingerprint
NOT_MEANING = (
    "diffusability.artifacts",
    "diffusability.errors",
    "diffusability.figures",
    "diffusability.study",
    "diffusability.training.interruption",
    "diffusability.training.progress",
)
# seeds are derived in the one; the others' preprocessing and features are in no fingerprint
MEANING = (
    "diffusability.study.core.fingerprint",
    "diffusability.study.entries.representations",
    "diffusability.study.entries.vision_models",
)


def stage_digests() -> dict[str, dict[str, int | str]]:
    """Return version and digest of every stage."""
    return {
        stage: {"version": entry.version, "digest": _digest(code_of(*stage_code(stage)))}
        for stage, entry in STAGES.items()
    }


def code_of(*modules: str) -> list[str]:
    """Return the modules of the package that modules import, directly or not, and themselves."""
    found: set[str] = set()
    frontier = [*modules]
    while frontier:
        name = frontier.pop()
        if name in found or not _has_meaning(name):
            continue
        found.add(name)
        frontier += _imports(name)
    return sorted(found)


def _has_meaning(name: str) -> bool:
    excluded = any(name == other or name.startswith(f"{other}.") for other in NOT_MEANING)
    return name in MEANING or not excluded


def _tree(name: str) -> ast.Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


@cache
def _imports(name: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    names += _registered(name)
    own = [n for n in names if n == PACKAGE or n.startswith(f"{PACKAGE}.")]
    return [n for n in own if _is_module(n)]


def _registered(name: str) -> list[str]:
    """Return the modules of the code that a module asks a registry for, of every entry."""
    module, found = importlib.import_module(name), []
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Attribute) and node.attr == "code":
            registry = getattr(module, getattr(node.value, "id", ""), None)
            found += registry.modules() if isinstance(registry, Registry) else []
    return found


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a name inside a module, not a module
        return False


def _digest(modules: list[str]) -> str:
    sha = hashlib.sha256()
    for name in modules:
        sha.update(f"{name}\n{_meaning(name)}\n".encode())
    return sha.hexdigest()[:16]


@cache
def _meaning(name: str) -> str:
    """Return the tree of a module without what documents it."""
    tree = _tree(name)
    for node in ast.walk(tree):
        _drop_docstring(node)
    return ast.dump(tree)


def _drop_docstring(node: ast.AST) -> None:
    """Remove what documents a module, class or function; comments are no part of the tree."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
        node.body = node.body[1:] or [ast.Pass()]


if __name__ == "__main__":
    if sys.argv[1:] != ["--accept"]:
        sys.exit(__doc__)
    FILE.write_text(json.dumps(stage_digests(), indent=1, sort_keys=True) + "\n")
