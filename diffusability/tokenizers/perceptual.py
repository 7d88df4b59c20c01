"""Perceptual distances: differences of two images in the features of a frozen network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from diffusability.artifacts.card import rebuild_command
from diffusability.data.images import ImageSet
from diffusability.encoders.interface import Encoder
from diffusability.encoders.load import PublishedWeights
from diffusability.encoders.packages import import_extra
from diffusability.errors import ArtifactError
from diffusability.study.entries.encoder import LpipsEncoder

Features = Callable[[Tensor], list[Tensor]]
NORM_EPSILON = 1e-10
LISTED = "lins."  # the package's network lists its linear layers a second time under this name


class Lpips(PublishedWeights[LpipsEncoder]):
    """Encoders of kind lpips: a distance, which offers no features of its own."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy the trunk, with the linear layers of the package."""
        LpipsPerceptual.from_vgg(source).save(target)

    def load(self, folder: Path, data: ImageSet) -> Encoder:
        """Refuse: a study declares no such use."""
        raise ArtifactError(f"{folder}: LPIPS is a distance, it serves as no feature extractor")


class FeaturePerceptual:
    """Distance of unit-normalised features, for a network trained in the study.

    d(x, y) = mean over layers and positions of ‖f(x)/‖f(x)‖ - f(y)/‖f(y)‖‖²: LPIPS (Zhang et al.,
    arXiv 1801.03924, Eq. 1) with equal channel weights and the mean over layers instead of the
    sum.
    """

    def __init__(self, features: Features) -> None:
        """Wrap a feature extractor.

        Args:
            features: maps images (B, C, H, W) in [-1, 1] to a list of (B, D, h, w). If it is a
                module, it is frozen: evaluation mode, no gradients of its parameters.
        """
        if isinstance(features, nn.Module):
            features.eval().requires_grad_(False)
        self.features = features

    def __call__(self, target: Tensor, reconstruction: Tensor) -> Tensor:
        """Return the distance of each pair of images.

        Args:
            target: (B, C, H, W); no gradient flows to it.
            reconstruction: (B, C, H, W).

        Returns:
            (B,), in [0, 4]; lower is closer, 0 for equal images.
        """
        with torch.no_grad():
            expected = self.features(target)
        distances = [
            (_unit(wanted) - _unit(found)).square().sum(1).mean((1, 2))  # (B,)
            for wanted, found in zip(expected, self.features(reconstruction), strict=True)
        ]
        return torch.stack(distances).mean(0)


def _unit(features: Tensor) -> Tensor:
    """Scale features (B, D, h, w) to length one along D, in single precision or better."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return functional.normalize(wide, dim=1, eps=NORM_EPSILON)


class LpipsPerceptual:
    """LPIPS with the VGG-16 trunk, from the ``lpips`` package and a local weight file.

    Zhang et al., The Unreasonable Effectiveness of Deep Features (arXiv 1801.03924). The package
    brings the linear layers; the trunk is torchvision's VGG-16, which it would download.
    """

    def __init__(self, network: nn.Module) -> None:
        """Wrap the package's network, frozen, in evaluation mode."""
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def from_vgg(cls, path: Path) -> "LpipsPerceptual":
        """Return the distance on a published trunk.

        Args:
            path: torchvision's VGG-16 state dict (``vgg16-397923af.pth``).

        Raises:
            ArtifactError: if the file is missing, or does not hold a VGG-16.
            StudyError: if the package is not installed.
        """
        if not path.is_file():
            raise ArtifactError(
                f"LPIPS: no VGG-16 weights at {path}; put torchvision's "
                "vgg16-397923af.pth there, or set the encoder's `weights`"
            )
        network = _lpips_network()
        _load_trunk(network.net, path)
        return cls(network)

    @classmethod
    def load(cls, path: Path) -> "LpipsPerceptual":
        """Load the distance that `save` wrote.

        Raises:
            ArtifactError: if the file has other contents.
            StudyError: if the package is not installed.
        """
        network = _lpips_network()
        missing, unexpected = network.load_state_dict(load_file(path), strict=False)
        wrong = [name for name in missing if not name.startswith(LISTED)] + unexpected
        if wrong:
            raise ArtifactError(
                f"LPIPS: {path} was written for another version of the `lpips` package "
                f"({', '.join(wrong[:3])}). Make it again with: {rebuild_command(path.parent)}"
            )
        return cls(network)

    def save(self, path: Path) -> None:
        """Write trunk and linear layers into one safetensors file."""
        state = self.network.state_dict()
        save_file({k: v.contiguous() for k, v in state.items() if not k.startswith(LISTED)}, path)

    def to(self, device: torch.device) -> "LpipsPerceptual":
        """Move the network to a device."""
        self.network.to(device)
        return self

    def __call__(self, target: Tensor, reconstruction: Tensor) -> Tensor:
        """Return the LPIPS of each pair of images.

        Args:
            target: (B, C, H, W) in [-1, 1], C = 1 (repeated) or 3.
            reconstruction: (B, C, H, W).

        Returns:
            (B,), at least zero; lower is closer.
        """
        pair = (images.expand(-1, 3, -1, -1) for images in (target, reconstruction))
        # the package normalises features in the input dtype; half precision is too coarse
        with torch.autocast(target.device.type, enabled=False):
            return self.network(*pair).flatten()  # (B, 1, 1, 1) -> (B,)


def _lpips_network() -> Any:
    """Return the package's network with its linear layers, before loading the trunk."""
    lpips = import_extra("lpips", "LPIPS")
    with torch.random.fork_rng(
        devices=[]
    ):  # the package draws random weights, which are overwritten
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


def _load_trunk(trunk: nn.Module, path: Path) -> None:
    """Fill ``slice<k>.<i>.weight`` of the package from ``features.<i>.weight`` of torchvision."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    missing = []
    for name, parameter in trunk.named_parameters():
        source = "features." + name.split(".", 1)[1]
        if source in weights and weights[source].shape == parameter.shape:
            parameter.data.copy_(weights[source])
        else:
            missing.append(source)
    if missing:
        raise ArtifactError(
            f"LPIPS: {path} lacks {', '.join(missing[:3])} of VGG-16; it is not "
            "torchvision's vgg16 state dict. Download vgg16-397923af.pth again"
        )
