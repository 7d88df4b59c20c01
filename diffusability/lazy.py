"""Code that is imported when it is first used: what declarations name, and public names."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from diffusability.errors import DiffusabilityError


def load_code(code: str) -> Any:
    """Import and return what `module:name` names.

    Raises:
        DiffusabilityError: there is no such module or name.
    """
    module, _, name = code.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != module:
            raise  # a package that the module imports is not installed
        raise DiffusabilityError(f"{code}: declared, but not found") from error


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
