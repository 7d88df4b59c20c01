"""Initial weights from an explicit generator, independent of the global random state.

Networks build their layers on PyTorch's ``meta`` device, where a parameter has a shape but no
memory. That costs nothing, draws no random numbers, and allows parameters and FLOPs of
full-width networks to be counted. `SeededModule.initialise` allocates and draws the weights;
``load_state_dict(state, assign=True)`` replaces them by saved ones.
"""

import math
from collections.abc import Callable
from itertools import chain
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

# (name in the network, layer, generator); draws the layer's own weights
Draw = Callable[[str, nn.Module, torch.Generator], None]
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.BatchNorm2d)


@runtime_checkable
class Fillable(Protocol):
    """A layer that sets parameters or buffers of its own."""

    def fill(self, generator: torch.Generator) -> None:
        """Set the layer's own tensors, but not those of its children."""


class SeededModule(nn.Module):
    """A network built on the meta device, whose weights `initialise` draws.

    Subclasses build their layers inside ``with torch.device("meta")``. A layer with parameters of
    its own (a mask token, a position embedding) defines ``fill(generator)``. A network whose
    standard layers do not use PyTorch's default overrides `draw_layer`.
    """

    def initialise(self, generator: torch.Generator) -> Self:
        """Allocate the parameters on the generator's device and draw their values.

        Args:
            generator: source of all random numbers; equal states give equal weights.
        """
        initialise(self, generator, self.draw_layer)
        return self

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw the weights of one standard layer, by its name in this network and its type."""
        draw_uniform(layer, generator)


def _draw_uniform(_name: str, layer: nn.Module, generator: torch.Generator) -> None:
    draw_uniform(layer, generator)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator, draw: Draw = _draw_uniform) -> None:
    """Fill every parameter and buffer of a module, layer by layer in definition order.

    Normalisations take scale one and shift zero; layers that are `Fillable` fill themselves.

    Args:
        module: any module; meta tensors are allocated on the generator's device first.
        generator: source of every random number.
        draw: initialises all other layers.

    Raises:
        TypeError: a layer has parameters that nothing initialises.
    """
    device = generator.device
    module._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t)
    for name, layer in module.named_modules():
        if isinstance(layer, Fillable):
            layer.fill(generator)
        elif isinstance(layer, NORMS):
            layer.reset_parameters()  # constants only: it draws nothing
        elif any(True for _ in chain(layer.parameters(False), layer.buffers(False))):
            draw(name, layer, generator)


@torch.no_grad()
def draw_uniform(layer: nn.Module, generator: torch.Generator) -> None:
    """Draw PyTorch's default: U(-1/√fan_in, 1/√fan_in) for weights and biases."""
    weight, bias = weight_and_bias(layer)
    bound = 1.0 / math.sqrt(weight[0].numel())
    nn.init.uniform_(weight, -bound, bound, generator=generator)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound, generator=generator)


@torch.no_grad()
def draw_normal(layer: nn.Module, std: float, generator: torch.Generator) -> None:
    """Draw weights from N(0, std²); biases are zero."""
    weight, bias = weight_and_bias(layer)
    nn.init.normal_(weight, std=std, generator=generator)
    if bias is not None:
        nn.init.zeros_(bias)


@torch.no_grad()
def draw_kaiming(layer: nn.Module, generator: torch.Generator) -> None:
    """Draw weights from N(0, 2 / fan_in), for layers before a ReLU; biases are zero."""
    weight, bias = weight_and_bias(layer)
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    if bias is not None:
        nn.init.zeros_(bias)


@torch.no_grad()
def draw_xavier(layer: nn.Module, generator: torch.Generator) -> None:
    """Draw weights from U(±√(6 / (fan_in + fan_out))), kernels included; biases are zero."""
    weight, bias = weight_and_bias(layer)
    nn.init.xavier_uniform_(weight, generator=generator)
    if bias is not None:
        nn.init.zeros_(bias)


@torch.no_grad()
def set_zero(layer: nn.Module) -> None:
    """Set weights and biases to zero."""
    for tensor in layer.parameters(False):
        tensor.zero_()


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear layer, a convolution or a lookup table.

    Raises:
        TypeError: the layer is of another type; it must define `fill`.
    """
    if isinstance(layer, nn.Embedding):
        return layer.weight, None
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return layer.weight, layer.bias
    raise TypeError(f"{type(layer).__name__} holds parameters but defines no fill(generator)")


def redraw_normal(module: nn.Module, std: float, generator: torch.Generator) -> None:
    """Redraw the weights of all convolutions and linear layers of an initialised module.

    Args:
        module: an initialised module.
        std: standard deviation of the weights; biases are zero.
        generator: source of the random numbers.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            draw_normal(layer, std, generator)
