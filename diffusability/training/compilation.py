"""Compilation of a network's forward pass, with one clear error where it is not possible."""

import contextlib
from collections.abc import Iterator

from torch import nn

from diffusability.errors import TrainingError


def compile_forward(module: nn.Module) -> None:
    """Compile the module in place, at its first call; names of weights stay what they are."""
    module.compile(dynamic=False)


@contextlib.contextmanager
def compiler_errors(name: str) -> Iterator[None]:
    """Say what is missing where the first calls of a compiled module fail.

    Raises:
        TrainingError: the compiler raised; `name` says in which run.
    """
    from torch._dynamo.exc import TorchDynamoException  # late: it takes seconds to import

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"{name}: the network cannot be compiled on this machine ({reason:.200}). Install a "
            "C++ compiler (on a GPU: triton), or set train.compile: false; the results agree"
        ) from error
