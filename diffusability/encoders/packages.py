"""Packages of published networks, which only the `paper` extra installs.

    python -m diffusability.encoders.packages diffusers timm

prints a line for each that does not import, with the cause; a study asks so before its first job.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from diffusability.errors import StudyError
from diffusability.study.core.commands import install_command

# modules that a package loads late, and that the networks need
LATE = {
    "diffusers": "diffusers.models.autoencoders.autoencoder_kl",
    "transformers": "transformers.models.dinov2.modeling_dinov2",
    "torch_fidelity": "torch_fidelity.feature_extractor_inceptionv3",
}
# operators of torchvision's compiled part that its Python part refers to when it is imported
OPERATORS = ("nms", "qnms")
_libraries: list[Any] = []  # operators are declared as long as their library object lives


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
        ensure_torchvision()
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # a broken compiled part raises RuntimeError
        raise StudyError(
            f"{what}: the package `{package}` does not import ({root_cause(error)}); install the "
            f"`paper` extra: {install_command('paper')}"
        ) from error


def ensure_torchvision() -> None:
    """Let torchvision import beside a torch without CUDA, for which it has no compiled part.

    diffusers, timm and transformers import torchvision wherever it is installed. Nothing that they
    do here needs its compiled operators, so these are declared without code.
    """
    if "torchvision" in sys.modules or find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
        import_module("torchvision")


def root_cause(error: BaseException) -> str:
    """Return, in one line, the error that started a chain of errors."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def main(argv: Sequence[str] | None = None) -> int:
    """Print what does not import, as `package<tab>cause`, and return 0."""
    for package in sys.argv[1:] if argv is None else argv:
        try:
            ensure_torchvision()
            import_module(LATE.get(package, package))
        except Exception as error:  # whatever a broken package raises is the answer
            print(f"{package}\t{root_cause(error)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
