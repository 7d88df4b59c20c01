"""Packages of published networks, which only the `paper` extra installs."""

from importlib import import_module
from types import ModuleType

from diffusability.errors import StudyError
from diffusability.study.commands import install_command


def import_extra(module: str, what: str) -> ModuleType:
    """Return a module of a package that the core does without.

    Args:
        module: dotted name of the module.
        what: what needs it, as the first words of the message.

    Raises:
        StudyError: if the package is not installed, or is installed and does not import.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # a broken compiled part raises RuntimeError
        raise StudyError(
            f"{what}: the package `{package}` does not import ({error!s:.200}); install the "
            f"`paper` extra: {install_command('paper')}"
        ) from error
