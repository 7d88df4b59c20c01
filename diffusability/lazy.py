"""Public names of a package whose modules are imported when a name is first used."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def public_names(modules: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the public names of a package, given by the module that defines them."""
    return [name for names in modules.values() for name in names]


def lazy_import(package: str, modules: Mapping[str, Sequence[str]], name: str) -> Any:
    """Import and return a public name or a module of a package.

    Raises:
        AttributeError: the package has no such name; the message lists those that exist.
    """
    home = next((module for module, names in modules.items() if name in names), None)
    if home is not None:
        return getattr(import_module(f"{package}.{home}"), name)
    if name in modules:
        return import_module(f"{package}.{name}")
    raise AttributeError(
        f"module {package!r} has no attribute {name!r}; it has {', '.join(public_names(modules))}"
    )
