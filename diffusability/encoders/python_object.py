"""Objects of the user's own package: imported, checked for their code, and given their weights.

An encoder (`kind: python`) is a `torch.nn.Module`, given by its class or by a function that returns
one. It is called with images and returns features:

    class MyEncoder(torch.nn.Module):
        def __init__(self, **options): ...
        def forward(self, images):       # (B, C, H, W) float32 in [-1, 1] of the study's dataset
            return grid                  # (B, D, H / factor, W / factor), D = `features`
            # or (grid, pooled) with pooled (B, F); by default the grid's mean

It must be deterministic in evaluation mode.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusability.artifacts.job import Job
from diffusability.artifacts.tensors import require_finite
from diffusability.data.images import ImageSet, to_float
from diffusability.data.load import job_dataset
from diffusability.encoders.interface import Encoder
from diffusability.encoders.load import HISTORY, WEIGHTS, EncoderKind, require_content
from diffusability.encoders.weights import read_tensors
from diffusability.errors import ArtifactError, StudyError
from diffusability.study.entries.encoder import PythonEncoder
from diffusability.study.sources.python_object import (
    PythonObject,
    WeightedObject,
    code_digest,
    search_path,
)

CHECKED = 4  # images of the dataset that an object is checked with
REPEATABLE = 1e-2  # of the spread: more than GPUs differ from themselves, less than any draw


class PythonFeatures(EncoderKind[PythonEncoder]):
    """Encoders of kind python."""

    def make(self, job: Job, folder: Path) -> None:
        """Write the weights, once the encoder returns what its entry says, and an empty history.

        Raises:
            StudyError: the code is missing, or what it returns is not what is asked for.
            ArtifactError: code or weights have changed since the study was planned, or weights are
                not finite.
        """
        data = job_dataset(job)
        network = build_with_weights(self.spec, job.spec.get("weights_content"))
        require_finite(dict(network.named_parameters()), f"weights of `{self.spec.object}`")
        encoder = ModuleEncoder(self.spec, network).to(job.device).eval()
        images = first_images(data, job.device)
        with torch.no_grad():
            first, second = encoder.grid(images), encoder.grid(images)
        require_repeatable(self.spec.object, "forward", first, second)
        save_state(network, folder / WEIGHTS)
        (folder / HISTORY).write_text("step\n")

    def load(self, folder: Path, data: ImageSet) -> Encoder:
        """Return the encoder with the weights of its artifact."""
        return ModuleEncoder(self.spec, build_from_artifact(self.spec, folder / WEIGHTS))


class ModuleEncoder(Encoder):
    """A module of the user's own behind the interface of the study's encoders."""

    def __init__(self, spec: PythonEncoder, network: nn.Module) -> None:
        """Wrap a module that returns a grid, or a grid and pooled features."""
        super().__init__()
        self.spec, self.network = spec, network
        self.grid_channels = spec.features

    def grid(self, images: Tensor) -> Tensor:
        """Return the (B, D, H / factor, W / factor) feature map in float32."""
        return self._run(images)[0]

    def features(self, images: Tensor) -> Tensor:
        """Return the (B, F) pooled features in float32."""
        return self._run(images)[1]

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        spec = self.spec
        found = called(spec.object, "forward", self.network, images)
        grid, pooled = found if isinstance(found, tuple) else (found, None)
        side = images.shape[2] // spec.factor, images.shape[3] // spec.factor
        grid_shape = (len(images), spec.features, *side)
        check_tensor(spec.object, "forward", "the feature map", grid, images, grid_shape)
        if pooled is None:
            return grid.float(), grid.float().mean(dim=(2, 3))
        width = pooled.shape[-1] if isinstance(pooled, Tensor) and pooled.ndim else 0
        shape = (len(images), width)
        check_tensor(spec.object, "forward", "the pooled features", pooled, images, shape)
        return grid.float(), pooled.float()


def import_object(spec: PythonObject) -> Any:
    """Return the object that an entry names.

    Raises:
        StudyError: module or object is missing, or importing the module fails.
        ArtifactError: the code is not the one that the study was planned with.
    """
    module, _, name = spec.object.partition(":")
    sys.path[:] = search_path()
    importlib.invalidate_caches()
    if spec.code is not None and (found := code_digest(spec.object)) != spec.code:
        changed = "has changed" if found else "is no longer found"
        raise ArtifactError(
            f"code of `{spec.object}`: it {changed} since the study was planned. Start the "
            "workflow again; what is made with it gets a new name then"
        )
    try:
        found_object: Any = importlib.import_module(module)
        for part in name.split("."):
            found_object = getattr(found_object, part)
    except AttributeError:
        raise StudyError(f"`{spec.object}`: the module `{module}` has no `{name}`") from None
    except Exception as error:  # whatever the user's module raises
        raise StudyError(
            f"`{spec.object}`: the module `{module}` does not import "
            f"({type(error).__name__}: {error!s:.300}); put it into the working directory or on "
            "PYTHONPATH"
        ) from error
    return found_object


def build_object(spec: PythonObject, further: Mapping[str, Any] | None = None) -> nn.Module:
    """Return the module that a class or function of the user's own gives.

    Args:
        spec: the entry; the object is called with its `options`.
        further: keyword arguments that the project adds.

    Raises:
        StudyError: the call fails, or does not return a module.
    """
    factory = import_object(spec)
    try:
        network = factory(**spec.options, **(further or {}))
    except Exception as error:  # whatever the user's code raises
        given = ", ".join([*spec.options, *(further or {})]) or "nothing"
        raise StudyError(
            f"`{spec.object}`: calling it with {given} raised {type(error).__name__}: "
            f"{error!s:.300}; correct the entry's `options`"
        ) from error
    if not isinstance(network, nn.Module):
        raise StudyError(
            f"`{spec.object}`: it gives a {type(network).__name__}, a torch.nn.Module is needed"
        )
    return network


def build_with_weights(spec: WeightedObject, planned: str | None) -> nn.Module:
    """Return the module with the weights of the entry's file, frozen.

    Args:
        spec: the entry, with its `weights`.
        planned: content of that file when the study was planned.

    Raises:
        StudyError: the weights do not fit the module.
        ArtifactError: the file is missing, damaged, or has changed.
    """
    network = build_object(spec)
    if spec.weights is not None:
        file = Path(spec.weights)
        require_content(file, planned)
        state = read_tensors(f"`{spec.object}`", file)
        _load(spec, network, state, file)
    return network.eval().requires_grad_(False)


def require_trained(spec: WeightedObject, network: nn.Module) -> None:
    """Refuse an entry without weights whose parameters are drawn anew each time it is built.

    Two builds are what it takes: the given one, and, unless the entry names weights, another here.

    Raises:
        StudyError: naming the first of them.
    """
    if spec.weights is None:
        _require_equal(spec, network.state_dict(), build_object(spec).state_dict())


def _require_equal(
    spec: PythonObject, state: Mapping[str, Tensor], again: Mapping[str, Tensor]
) -> None:
    for name, tensor in state.items():
        if name in again and not torch.equal(tensor.cpu(), again[name].cpu()):
            raise StudyError(
                f"`{spec.object}`: it has other weights each time that it is built (first {name}), "
                "so they are not trained ones; give their file with `weights` (of a score: "
                "--weights FILE), or load them where it is built"
            )


def require_repeatable(name: str, method: str, first: Tensor, second: Tensor) -> None:
    """Refuse results for the same images that differ by more than rounding.

    Raises:
        StudyError: with how far they differ.
    """
    spread = float(first.std()) if first.numel() > 1 else 1.0
    differ = float((first - second).abs().max())
    if differ > REPEATABLE * spread:
        raise StudyError(
            f"`{name}`: {method} gives other values when it is called again with the same images "
            f"(by up to {differ:.3g}, where they spread by {spread:.3g}); draw nothing in it: "
            "return a mean, or a distribution"
        )


def build_from_artifact(spec: WeightedObject, file: Path) -> nn.Module:
    """Return the module with the weights that `save_state` wrote.

    Raises:
        StudyError: the entry names no weights, and they are drawn anew each time that it is built.
    """
    network, state = build_object(spec), load_file(file)
    if spec.weights is None:  # the check of `require_trained`, without a build of its own
        _require_equal(spec, network.state_dict(), state)
    _load(spec, network, state, file)
    return network


def _load(spec: PythonObject, network: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise StudyError(
            f"`{spec.object}`: the weights in {file} do not fit it ({error!s:.600})"
        ) from None


def save_state(network: nn.Module, file: Path) -> None:
    """Write parameters and buffers; tensors that share memory are written once each."""
    state = {
        name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()
    }
    save_file(state, file)


def first_images(data: ImageSet, device: str) -> Tensor:
    """Return a few images of the dataset, (n, C, H, W) float32 in [-1, 1]."""
    return to_float(data.images[torch.arange(min(CHECKED, len(data.labels)))].to(device))


def called(name: str, method: str, function: Any, *inputs: Tensor) -> Any:
    """Return what a function of the user's own returns; its errors name it and its input.

    Raises:
        StudyError: it raised an exception.
    """
    try:
        return function(*inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the user's code raises
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in inputs)
        raise StudyError(
            f"`{name}`: {method} raised {type(error).__name__} for {shapes}: {error!s:.300}"
        ) from error


def check_tensor(
    name: str, method: str, what: str, found: Any, given: Tensor, shape: tuple[int, ...]
) -> None:
    """Refuse what is no tensor of a shape, floating and finite, on the input's device.

    Raises:
        StudyError: with what was found and what is expected.
    """
    start = f"`{name}`: {method} returns {what}"
    if not isinstance(found, Tensor):
        raise StudyError(f"{start} as {type(found).__name__}; a tensor is expected")
    if tuple(found.shape) != shape:
        raise StudyError(
            f"{start} of shape {tuple(found.shape)} for an input of shape {tuple(given.shape)}; "
            f"expected {shape}, as the study's entry says"
        )
    if not found.is_floating_point():
        raise StudyError(f"{start} of type {found.dtype}; a floating-point type is expected")
    if found.device != given.device:
        raise StudyError(
            f"{start} on {found.device} for an input on {given.device}; compute on the input's"
        )
    bad = int((~found.isfinite()).sum())
    if bad:
        raise StudyError(f"{start} with {bad} of {found.numel()} values not finite")
