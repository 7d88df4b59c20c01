"""Nothing in the library is there for the tests alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

# what the workflow and the benchmarks read besides the library itself
READERS = ("diffusability/**/*.py", "scripts/*.py", "benchmarks/*.py")
TEXTS = ("Snakefile", "rules/*.smk", "diffusability/**/*.jinja", "pyproject.toml")
# names that only users or other programs call, each with its reason
ALLOWED: dict[str, str] = {
    "diffusability.scoring.functions.smoothness": "one of the functions that users call",
}


def defined(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the public functions, classes and constants of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            continue
        yield from ((name, node) for name in names if not name.startswith("_"))


def registered(node: ast.stmt) -> bool:
    """Return whether a decorator takes the object, so that nothing has to name it."""
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(one, ast.Call) and "dataclass" not in ast.dump(one) for one in decorators)


def used(tree: ast.AST) -> set[str]:
    """Return the names that code loads, or holds as a text that is nothing but that name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.split("[.:]", node.value)) if " " not in node.value else set()
    return found


def declared(tree: ast.AST) -> set[str]:
    """Return the objects that code names as `module:object`, as registries do."""
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    codes = (re.fullmatch(r"[\w.]*:(\w+)", text) for text in texts if isinstance(text, str))
    return {code[1] for code in codes if code}


def imported(tree: ast.AST) -> set[tuple[str, str]]:
    """Return (module, name) of what a module takes from others: `from m import n`, or `m.n`."""
    modules, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found.add((node.module or "", alias.name))
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add((modules.get(node.value.id, ""), node.attr))
    return found


def unused(root: Path) -> list[str]:
    """Return the public names of the library that nothing but a test can reach."""
    paths = [path for pattern in READERS for path in sorted(root.glob(pattern))]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    taken = set().union(*(imported(tree) for tree in trees.values()))
    words = set().union(*(declared(tree) for tree in trees.values())) | {
        word
        for pattern in TEXTS
        for path in root.glob(pattern)
        for word in re.findall(r"\w+", path.read_text())
    }
    found = []
    for path, tree in trees.items():
        relative = path.relative_to(root).with_suffix("")
        if relative.parts[0] != "diffusability":
            continue
        module = ".".join(relative.parts).removesuffix(".__init__")
        for name, node in defined(tree):
            elsewhere = [other for other in tree.body if other is not node]
            reached = (
                (module, name) in taken
                or any(name in used(other) for other in elsewhere)
                or name in words
                or registered(node)
            )
            if not reached and not name.startswith("__"):
                found.append(f"{module}.{name}")
    return found


def test_nothing_is_there_for_tests_alone() -> None:
    names = set(unused(REPOSITORY))
    new = names - set(ALLOWED)
    assert not new, f"only tests use {', '.join(sorted(new))}: move them to tests/, or remove them"
    assert set(ALLOWED) <= names, f"no longer unused: {', '.join(sorted(set(ALLOWED) - names))}"


def test_code_that_nothing_uses_is_found(tmp_path: Path) -> None:
    package = tmp_path / "diffusability"
    package.mkdir()
    (package / "one.py").write_text(
        "def lonely(): ...\n\ndef asked(): ...\n\nUNREAD = 1\n\ndef coded(): ...\n"
    )
    (package / "two.py").write_text(
        'from diffusability.one import asked\n\nasked(f"{asked}.one:coded")\n'
    )
    assert unused(tmp_path) == ["diffusability.one.lonely", "diffusability.one.UNREAD"]
