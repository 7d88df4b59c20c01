"""Published weight files: read as tensors by name, compared with what a network expects, loaded."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusability.artifacts.tensors import require_finite
from diffusability.errors import ArtifactError

State = dict[str, Tensor]
SHOWN = 5  # keys that a message lists


def read_tensors(what: str, path: Path) -> State:
    """Return the tensors of a weight file by name.

    Args:
        what: whose weights they are, for messages.
        path: safetensors, or a checkpoint that holds tensors only, at its top or under
            `state_dict` or `model`.

    Raises:
        ArtifactError: no such file, or not of one of these formats.
    """
    if not path.is_file():
        raise ArtifactError(
            f"weights of {what}: not at {path}; name a file that is there (`weights`)"
        )
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # every reader raises errors of its own
        raise ArtifactError(f"weights of {what}: {path} cannot be read ({error!s:.200})") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            _refuse_twins(what, path, content, wrapper)
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ArtifactError(f"weights of {what}: {path} holds no mapping of names to tensors")
    return {name: t for name, t in content.items() if isinstance(t, Tensor)}


def _refuse_twins(what: str, path: Path, content: Mapping[str, Any], chosen: str) -> None:
    """Refuse a checkpoint that holds a network twice, such as its average beside it."""
    names = set(content[chosen])
    twins = [
        key
        for key, other in content.items()
        if key != chosen and isinstance(other, Mapping) and set(other) == names
    ]
    if names and twins:
        raise ArtifactError(
            f"weights of {what}: {path} holds `{chosen}` and, of the same tensors, "
            f"`{'`, `'.join(map(str, twins))}`; save the one that is meant alone: "
            f'torch.save(torch.load("{path.name}", weights_only=True)["{twins[0]}"], "alone.pt")'
        )


def without(state: Mapping[str, Tensor], unused: tuple[str, ...]) -> State:
    """Return the tensors whose names do not begin with one of ``unused``."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(unused)}


def timm_layout(what: str, network: nn.Module, state: State, **options: Any) -> State:
    """Return the tensors of any release that timm knows under the names of its network.

    Args:
        what: whose weights they are, for the message.
        network: of timm; the module that defines it knows its family's releases.
        state: tensors of the file by name.
        options: of the family's conversion.

    Raises:
        ArtifactError: the tensors are of no such release.
    """
    convert = import_module(type(network).__module__).checkpoint_filter_fn
    try:
        return convert(dict(state), network, **options)
    except (KeyError, RuntimeError, AttributeError, ValueError) as error:
        raise ArtifactError(
            f"weights of {what}: not a layout that timm knows ({error!s:.200})"
        ) from None


def load_weights(
    what: str,
    network: nn.Module,
    state: State,
    *,
    unused: tuple[str, ...],
    architecture: str,
    hub: str,
) -> None:
    """Put tensors into a network, once they are just those that its features depend on.

    Args:
        what: whose weights they are, for the message.
        network: takes the tensors.
        state: tensors under the network's names; further ones that are unused are left out.
        unused: beginnings of the names that no feature depends on.
        architecture: see ``require_fit``. hub: likewise.

    Raises:
        ArtifactError: names or shapes do not fit, or weights are not finite; the message says
            which.
    """
    given = without(state, unused)
    require_fit(what, architecture, hub, without(network.state_dict(), unused), given)
    network.load_state_dict(given, strict=False)  # what is missing is unused, as checked above
    used = {name: weight for name, weight in network.named_parameters() if name in given}
    require_finite(used, f"weights of {what}")


def require_fit(
    what: str, network: str, hub: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        what: whose weights they are, for the message.
        network: library and architecture, likewise.
        hub: repository of the model hub whose file fits.
        expected: tensors of the network by name.
        given: tensors of the file by name.

    Raises:
        ArtifactError: names or shapes do not fit; the message lists them.
    """
    shapes = {name: tuple(t.shape) for name, t in expected.items()}
    found = {name: tuple(t.shape) for name, t in given.items()}
    wrong = {
        "missing": sorted(shapes.keys() - found.keys()),
        "unknown": sorted(found.keys() - shapes.keys()),
        "of another shape": sorted(
            f"{name} {found[name]} for {shapes[name]}"
            for name in shapes.keys() & found.keys()
            if shapes[name] != found[name]
        ),
    }
    if any(wrong.values()):
        listing = "; ".join(f"{kind}: {_some(names)}" for kind, names in wrong.items() if names)
        raise ArtifactError(
            f"weights of {what}: they do not fit {network}. {listing}. A file that fits is {hub}'s"
        )


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
