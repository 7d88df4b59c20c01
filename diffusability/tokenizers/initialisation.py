"""Weights from an explicit generator: one seed, one network, and no global random state.

Networks are built on PyTorch's ``meta`` device, where a parameter has a shape but no memory. That
costs nothing, consumes no random numbers, and lets parameters of full-width networks be counted.
`initialise` then gives them memory and values.
"""

import math
from collections.abc import Iterator
from itertools import chain
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Fillable(Protocol):
    """A layer with parameters of its own."""

    def fill(self, generator: torch.Generator) -> None:
        """Set the layer's own parameters; those of its children are filled by themselves."""


class SeededModule(nn.Module):
    """A network that is built on the meta device and filled by `initialise`.

    Subclasses build their layers inside ``with torch.device("meta")``. A layer that holds
    parameters of its own (a mask token, a position embedding) defines
    ``fill(generator)``; every other layer is filled by its type.
    """

    def initialise(self, generator: torch.Generator) -> Self:
        """Allocate the parameters on the generator's device and draw their values.

        To load saved weights instead, ``load_state_dict(state, assign=True)`` needs no drawing.

        Args:
            generator: source of every random number; equal states give equal weights.

        Returns:
            The module itself.
        """
        initialise(self, generator)
        return self


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter and buffer of a module, layer by layer in definition order.

    Convolutions and linear layers take PyTorch's own default, U(-1/√fan_in, 1/√fan_in) for
    weights and biases; normalisations take scale one and shift zero.

    Args:
        module: any module; meta tensors are allocated on the generator's device first.
        generator: source of every random number.

    Raises:
        TypeError: if a layer has parameters that no rule covers.
    """
    if any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers())):
        module.to_empty(device=generator.device)
    for layer in module.modules():
        _fill(layer, generator)


def normal_weights(module: nn.Module, std: float, generator: torch.Generator) -> None:
    """Redraw the weights of all convolutions and linear layers from N(0, std²), biases zero.

    Args:
        module: an initialised module.
        std: standard deviation of the weights.
        generator: source of the random numbers.
    """
    for layer in _weighted(module):
        nn.init.normal_(layer.weight, std=std, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _weighted(module: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    return (layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


@torch.no_grad()
def _fill(layer: nn.Module, generator: torch.Generator) -> None:
    if isinstance(layer, Fillable):
        layer.fill(generator)
    elif isinstance(layer, nn.Conv2d | nn.Linear):
        bound = 1.0 / math.sqrt(layer.weight[0].numel())
        _uniform(layer.weight, bound, generator)
        if layer.bias is not None:
            _uniform(layer.bias, bound, generator)
    elif isinstance(layer, nn.GroupNorm | nn.RMSNorm | nn.BatchNorm2d):
        layer.reset_parameters()  # constants only: it draws nothing
    elif any(True for _ in chain(layer.parameters(False), layer.buffers(False))):
        raise TypeError(f"{type(layer).__name__} holds parameters but defines no fill(generator)")


def _uniform(tensor: Tensor, bound: float, generator: torch.Generator) -> None:
    nn.init.uniform_(tensor, -bound, bound, generator=generator)
