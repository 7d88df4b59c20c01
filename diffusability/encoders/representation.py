"""The published networks of FDr6 as extractors: preprocessing, one vector per image, weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from diffusability.data.images import ImageSet
from diffusability.encoders.interface import Encoder
from diffusability.encoders.load import WEIGHTS, PublishedWeights
from diffusability.encoders.packages import import_extra
from diffusability.encoders.weights import (
    State,
    load_weights,
    read_tensors,
    timm_layout,
    without,
)
from diffusability.errors import StudyError
from diffusability.study.entries.encoder import RepresentationEncoder
from diffusability.study.entries.representations import (
    REPRESENTATIONS,
    Representation,
    RepresentationFacts,
)

UNUSED = ("head.", "fc_norm.", "mask_token")  # no feature depends on them


class RepresentationSpace(PublishedWeights[RepresentationEncoder]):
    """Encoders of kind representation."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy the weights that the feature depends on."""
        import_representation(self.spec.model, source, target)

    def load(self, folder: Path, data: ImageSet) -> Encoder:
        """Return the extractor."""
        return load_representation(self.spec.model, load_file(folder / WEIGHTS))


class RepresentationModel(Encoder):
    """One vector per image in a feature space of FDr6; it has no grid and names no classes."""

    mean: Tensor
    std: Tensor

    def __init__(self, facts: RepresentationFacts, network: Any) -> None:
        """Wrap a network of the given facts; it is frozen and set to evaluation."""
        super().__init__()
        self.facts, self.network = facts, network
        self.grid_channels = facts.channels
        for name, values in zip(("mean", "std"), facts.norm, strict=True):
            column = torch.tensor(values).view(3, 1, 1)  # (3, 1, 1)
            self.register_buffer(name, column, persistent=False)
        self.eval().requires_grad_(False)

    def grid(self, images: Tensor) -> Tensor:
        """Refuse: FDr6 takes vectors, and a study declares no other use of these networks."""
        raise StudyError("a network of kind representation has no feature map; use kind vision")

    def preprocess(self, images: Tensor) -> Tensor:
        """Return what the network is given: resized and on its own scale, in float32.

        Args:
            images: (B, C, H, W) in -1 ... 1; one channel is repeated to three.

        Returns:
            (B, 3, s, s) with the side s of the facts.
        """
        side = self.facts.input_side
        unit = ((images.float() + 1) / 2).expand(-1, 3, -1, -1)  # 0 ... 1
        if unit.shape[2:] != (side, side):
            unit = functional.interpolate(
                unit, size=(side, side), mode="bicubic", align_corners=False, antialias=True
            )
        return (unit - self.mean) / self.std

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the (B, F) feature of images (B, C, H, W) in -1 ... 1, in float32."""
        pixels = self.preprocess(images)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            found = self.network.forward_features(pixels)  # (B, N, F), or (B, F, h, w)
            if self.facts.feature == "spatial mean":
                found = found.mean(dim=(2, 3))
            elif self.facts.feature == "class token":
                found = found[:, 0]
            else:
                found = self.network.attn_pool(found)
        return found.float()


def build_representation(facts: RepresentationFacts, **changes: Any) -> Any:
    """Return the network with random weights.

    Args:
        facts: of the network.
        changes: options of the library that replace the published ones, e.g. a smaller depth.

    Raises:
        StudyError: the library is not installed, or does not import.
    """
    timm = import_extra("timm", f"representation {facts.network}")
    resizing = {"dynamic_img_size": True, "dynamic_img_pad": True}
    options = {} if facts.feature == "spatial mean" else resizing  # of transformers alone
    return timm.create_model(facts.network, pretrained=False, num_classes=0, **options, **changes)


def load_representation(model: Representation, state: State, **changes: Any) -> RepresentationModel:
    """Return the extractor with the tensors of `import_representation`, or of a published file.

    Args:
        model: name of the space.
        state: tensors by name.
        changes: see `build_representation`.

    Raises:
        ArtifactError: names or shapes do not fit the network; the message lists them.
    """
    facts = REPRESENTATIONS[model]
    network = build_representation(facts, **changes)
    load_weights(
        model,
        network,
        timm_layout(model, network, state),
        unused=UNUSED,
        architecture=f"timm's {facts.network}",
        hub=facts.hub,
    )
    return RepresentationModel(facts, network)


def import_representation(model: Representation, path: Path, target: Path) -> None:
    """Copy a published weight file, once it fits its network.

    Args:
        model: name of the space.
        path: file with the tensors of timm's release.
        target: safetensors file to write; `load_representation` takes its tensors.

    Raises:
        ArtifactError: the file is missing, damaged, or of another network.
    """
    state = without(read_tensors(model, path), UNUSED)
    load_representation(model, state)  # refuses what does not fit
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
