"""Let torchvision import beside a torch without CUDA, for which it publishes no compiled part.

timm and transformers import torchvision whenever it is installed; nothing that they do here needs
its compiled operators. Only tests use this.
"""

import sys

import torch

_definitions: list[torch.library.Library] = []  # definitions last as long as their library object


def ensure_torchvision() -> None:
    """Import torchvision, declaring the operators that its compiled part would have declared."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _definitions.append(library)
        import torchvision  # noqa: F401
