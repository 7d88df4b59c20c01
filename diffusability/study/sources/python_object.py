"""Objects of the user's own package that a study names: where their code is, and what it contains.

`object` is `my_package:MyVAE` or `my_package.MyVAE`. It is looked up as Python would import it, on
`sys.path` (which PYTHONPATH extends) and then in the working directory, without running any of it:
a study is planned without torch. It is imported by the job that needs it.

Its identity is the content of its code: of all `.py` files of the top-level package. Where the
module is no package, it is that of its file and of all that this imports from the same folder, also
indirectly. The path is no part of it.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, field_validator, model_validator

from diffusability.study.core.fingerprint import canonical_json
from diffusability.study.core.spec import COMPUTED, Need, OptionalPlace, Spec
from diffusability.study.sources.content import content_digest

# an object as an entry names it: a dotted module, `:` or `.`, and a name in it
OBJECT = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


class PythonObject(Spec):
    """An object of the user's own package, and the options that it is built with."""

    object: str = Field(
        pattern=OBJECT,
        description="a class or function as `my_package:MyVAE` or `my_package.MyVAE`, found on "
        "PYTHONPATH or in the working directory",
    )
    options: dict[str, JsonValue] = Field(
        {}, description="keyword arguments that the object is called with, plain values"
    )
    code: str | None = Field(
        None,
        json_schema_extra=COMPUTED,
        description="SHA-256 of the object's code: all .py files of its package, or its module "
        "with those beside it that it imports",
    )

    @field_validator("object")
    @classmethod
    def _with_colon(cls, name: str) -> str:
        if ":" in name:
            return name
        module, _, attribute = name.rpartition(".")
        return f"{module}:{attribute}"

    @model_validator(mode="before")
    @classmethod
    def _hash_code(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "code" in data or not isinstance(data.get("object"), str):
            return data
        return data | {"code": code_digest(data["object"])}

    @property
    def module(self) -> str:
        """Dotted name of the module."""
        return self.object.partition(":")[0]

    def needs(self) -> tuple[Need, ...]:
        """The module, and the object in it."""
        what, file = f"code of `{self.object}`", module_file(self.module)
        name = self.object.partition(":")[2].partition(".")[0]
        if file is None:
            top = self.module.partition(".")[0]
            remedy = (
                f"put the package `{top}` into the working directory, or set PYTHONPATH to the "
                "folder that holds it, or install it"
            )
            return (Need(what, Path(f"{self.module.replace('.', '/')}.py"), remedy),)
        if not defines(file, name):
            remedy = f"define `{name}` in that file, or correct the entry's `object`"
            return (Need(what, file, remedy, lacking=f"`{name}` is not defined in {file}"),)
        return ()


class WeightedObject(PythonObject):
    """An object of the user's own package that takes its weights from a file."""

    weights: OptionalPlace = Field(
        None,
        description="safetensors, or a checkpoint that holds tensors only; none: the object comes "
        "with its weights. Its content is part of the fingerprint, its path is not",
    )
    weights_content: str | None = Field(
        None, json_schema_extra=COMPUTED, description="SHA-256 of the weight file"
    )

    @model_validator(mode="before")
    @classmethod
    def _hash_weights(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "weights_content" in data:
            return data
        weights = data.get("weights")
        found = content_digest(weights) if isinstance(weights, str) else None
        return data | {"weights_content": found}

    def needs(self) -> tuple[Need, ...]:
        """The code, and the weights where a file is named."""
        if self.weights is None:
            return super().needs()
        remedy = "set the entry's `weights` to the file"
        return *super().needs(), Need(f"weights of `{self.object}`", Path(self.weights), remedy)


def search_path() -> list[str]:
    """Return where modules are looked for: `sys.path`, then the working directory."""
    here = str(Path.cwd())
    return sys.path if here in sys.path or "" in sys.path else [*sys.path, here]


def module_file(module: str) -> Path | None:
    """Return the source file of a module, found without importing it or its parents."""
    spec = _find(module)
    if spec is None:
        return None
    return Path(spec.origin) if spec.has_location and spec.origin else None


def code_digest(name: str) -> str | None:
    """Return the SHA-256 of the code of an object, or None where it is not found.

    Args:
        name: `module:object` or `module.object`.
    """
    module = name.partition(":")[0] if ":" in name else name.rpartition(".")[0]
    spec = _find(module.partition(".")[0])
    if spec is None or _find(module) is None:
        return None
    for location in spec.submodule_search_locations or ():
        return content_digest(location, suffixes=(".py",))
    if not spec.has_location or not spec.origin:
        return None
    file = Path(spec.origin)
    beside = _imported_beside(file)
    if not beside:
        return content_digest(file)
    digests = {path.name: content_digest(path, suffixes=(".py",)) for path in (file, *beside)}
    return hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def _imported_beside(file: Path) -> list[Path]:
    """Return the modules and packages in a module's folder that it imports, also indirectly.

    None of installed modules, whose folder holds everybody's.
    """
    if file.suffix != ".py" or str(file.parent) in sysconfig.get_paths().values():
        return []
    found: dict[str, Path] = {}
    unread = [file]
    while unread:
        path = unread.pop()
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for name in _imports(source):
                for beside in (file.parent / name, file.parent / f"{name}.py"):
                    if beside.exists() and beside != file and name not in found:
                        found[name] = beside
                        unread.append(beside)
    return [found[name] for name in sorted(found)]


def _imports(file: Path) -> Iterator[str]:
    """Yield the top-level names of the modules that a file imports, in any place."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # the import says more
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _find(module: str) -> ModuleSpec | None:
    locations: list[str] | None = search_path()
    spec = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        if locations is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[:depth]), locations)
        if spec is None:
            return None
        found = spec.submodule_search_locations
        locations = None if found is None else list(found)
    return spec


def defines(file: Path, name: str) -> bool:
    """Return whether a module may define a name at its top level, judged by its text.

    What is imported with a star, or set by code that text does not show, counts as defined.
    """
    if file.suffix != ".py":
        return True
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True  # the import says more
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in (name, "__getattr__"):
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
        if isinstance(node, ast.alias) and name == (node.asname or node.name):
            return True
        if isinstance(node, ast.alias) and node.name == "*":
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("globals", "setattr"):
            return True
    return False
