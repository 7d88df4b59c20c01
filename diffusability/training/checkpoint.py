"""Checkpoints: all state needed to resume, in one safetensors file, written atomically."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusability.artifacts.atomic import writing
from diffusability.artifacts.tensors import non_finite
from diffusability.errors import TrainingError

logger = logging.getLogger(__name__)
CURRENT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
DAMAGED = "checkpoint.damaged.safetensors"
HASH = "sha256"  # in the metadata


@dataclass
class Checkpoint:
    """State of a run after `step` steps: tensors by name, and plain JSON values."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; the previous one is kept as a backup."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    metadata = {"step": str(checkpoint.step), "values": json.dumps(checkpoint.values)}
    metadata[HASH] = _hash(metadata, tensors)
    current = folder / CURRENT
    with writing(current) as unfinished:  # not as bytes in memory: XL has 11 GB
        save_file(tensors, unfinished, metadata)
        if current.exists():
            current.replace(folder / PREVIOUS)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint of the folder on the CPU, or None if there is none.

    A damaged newer checkpoint, or one whose weights are not finite, is moved aside, so that the
    next save does not keep it as backup. If the weights of every checkpoint are not finite, the run
    starts from its first step: there is nothing to resume.

    Raises:
        TrainingError: there are checkpoints, but none can be read.
    """
    unreadable = []
    diverged = 0
    for path in (folder / CURRENT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata[HASH] != _hash(metadata, tensors):
                raise ValueError("it was altered after it was written: its SHA-256 differs")
            found = Checkpoint(int(metadata["step"]), tensors, json.loads(metadata["values"]))
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            logger.warning("%s cannot be read (%s); trying the previous one", path, error)
            unreadable.append(path)
            continue
        if bad := non_finite(found.tensors):
            logger.warning(
                "%s: %d tensors are not finite (first %s); trying the previous one",
                path,
                len(bad),
                bad[0],
            )
            unreadable.append(path)
            diverged += 1
            continue
        for damaged in unreadable:
            with contextlib.suppress(FileNotFoundError):  # another process did it
                damaged.replace(folder / DAMAGED)
        return found
    if diverged and diverged == len(unreadable):
        logger.warning("%s: no checkpoint is finite; starting from the first step", folder)
        return None
    if unreadable:
        raise TrainingError(
            f"{folder}: no checkpoint can be read; remove {' and '.join(map(str, unreadable))} "
            "to start this run from its first step"
        )
    return None


def _hash(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of step, values and every tensor with its name, dtype and shape."""
    digest = hashlib.sha256(json.dumps([metadata["step"], metadata["values"]]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def flatten_optimizer(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return an optimizer's per-parameter state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{name}": torch.as_tensor(value)
        for index, entries in state.items()
        for name, value in entries.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Load what flatten_optimizer returned; the parameter groups come from the study.

    Moments take the memory layout of their parameter, which the optimizer's kernels rely on.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}."):
            index, _, name = key.removeprefix(f"{prefix}.").partition(".")
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:
                tensor = torch.empty_like(parameter).copy_(tensor)  # mapped: no copy on the host
            state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
