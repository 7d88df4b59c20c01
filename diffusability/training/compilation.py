"""Compilation of a network's forward pass, with a clear error if it fails."""

import contextlib
from collections.abc import Iterator

from torch import nn

from diffusability.errors import TrainingError


def compile_forward(module: nn.Module) -> None:
    """Compile the module in place, at its first call; parameter names do not change."""
    module.compile(dynamic=False)


@contextlib.contextmanager
def compiler_errors(name: str) -> Iterator[None]:
    """Raise a clear error if the first calls of a compiled module fail.

    Raises:
        TrainingError: the compiler failed; the message names the run `name`.
    """
    from torch._dynamo.exc import TorchDynamoException  # imported here because it takes seconds

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"{name}: the network cannot be compiled on this machine ({reason:.200}). Install a "
            "C++ compiler (on a GPU: triton), or set train.compile: false; the results agree"
        ) from error
