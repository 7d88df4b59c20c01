"""A GPU to find mismatched devices without one: it computes on the CPU and keeps torch's rules.

Inside ``PretendDevice`` a set of tensors counts as being on ``DEVICE``; what torch would refuse on
a real GPU is refused here: operations on tensors of both devices, numpy views of tensors that are
not on the CPU, and draws by a CPU generator onto the device. What is computed is the CPU's.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils.weak import WeakTensorKeyDictionary

DEVICE = torch.device("cuda", 7)
_READS = (Tensor.numpy, Tensor.__array__)
_INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
_HOST = torch.device("cpu")


class DeviceMismatchError(AssertionError):
    """Something that a real GPU would refuse."""


class PretendDevice(TorchFunctionMode):
    """While it is active, tensors made on or moved to ``DEVICE`` count as being there.

    ``waits`` counts the copies between host and device that the host would wait for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._there = WeakTensorKeyDictionary()
        self._pinned = WeakTensorKeyDictionary()
        self.waits = 0

    def put(self, module: torch.nn.Module) -> None:
        """Let the parameters and buffers of a module count as being on the device."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._there[tensor] = True

    def on(self, tensor: Tensor) -> bool:
        """Whether a tensor counts as being on the device."""
        return tensor in self._there

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse what a GPU would refuse, compute on the CPU, and note where the result is."""
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func == Tensor.device.__get__:
            return DEVICE if self.on(first) else func(*args)
        if func == Tensor.is_cuda.__get__:
            return self.on(first)
        if func is Tensor.__iter__:
            with self:
                return iter(first.unbind(0))
        if func is Tensor.pin_memory:
            pinned = first.clone()
            self._pinned[pinned] = True
            return pinned
        if func in (Tensor.to, Tensor.cpu):
            return self._moved(func, args, kwargs)
        if func in _READS and self.on(first):
            raise DeviceMismatchError(f"{func.__name__} of a tensor on {DEVICE}: call .cpu() first")
        there = self._common(func, args, kwargs)
        if "device" in kwargs and kwargs["device"] is not None:
            there = torch.device(kwargs["device"]) == DEVICE
            kwargs["device"] = _HOST
        elif func in _device_constructors():
            there = False  # also torch.tensor and as_tensor of host numbers
        if there and kwargs.get("generator") is not None:
            raise DeviceMismatchError(
                f"{func.__name__} draws onto {DEVICE} by a generator of the CPU"
            )
        return self._mark(func(*args, **kwargs), there)

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """Return a tensor of another dtype or device: never the same object on two devices."""
        source, *rest = args
        there = self.on(source)
        for value in (*rest, *kwargs.values()):
            if isinstance(value, Tensor):
                there = self.on(value)
            elif isinstance(value, torch.device | str):
                there = torch.device(value) == DEVICE
        there = there and func is not Tensor.cpu
        free = source in self._pinned and kwargs.get("non_blocking", False)
        self.waits += there != self.on(source) and not free
        rest = [_HOST if isinstance(v, torch.device | str) else v for v in rest]
        kwargs = {k: _HOST if k == "device" and v is not None else v for k, v in kwargs.items()}
        result = func(source, *rest, **kwargs)
        if result is source and there != self.on(source):
            result = source.clone()
        return self._mark(result, there)

    def _common(self, func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        """Return where the arguments are, and refuse those of both devices."""
        if func in _INDEXING and self.on(args[0]):
            args = (args[0], *args[2:])  # a GPU takes indices from the CPU, not the reverse
        tensors = list(_tensors((args, kwargs)))
        there = [tensor for tensor in tensors if self.on(tensor)]
        here = [tensor for tensor in tensors if not self.on(tensor) and tensor.ndim > 0]
        if there and here:
            shapes = [(tuple(x.shape), tuple(y.shape)) for x, y in zip(there, here, strict=False)]
            raise DeviceMismatchError(
                f"{func.__name__} of tensors on {DEVICE} and the CPU: {shapes}"
            )
        return bool(there)

    def _mark(self, result: Any, there: bool) -> Any:
        for tensor in _tensors(result) if there else ():
            self._there[tensor] = True
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors within nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
