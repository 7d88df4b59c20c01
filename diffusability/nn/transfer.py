"""Copies from host to device that the host does not wait for."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the copy is made while the device computes.

    From ordinary memory of the host a GPU copies nothing before it has done all that it was asked
    for, and the host waits as long.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
