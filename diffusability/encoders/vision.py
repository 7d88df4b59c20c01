"""Published vision models as encoders: preprocessing, patch features, weights from a file.

The preprocessing is part of the encoder, so that no caller can hand it an image on the wrong
scale: VA-VAE's own code gave its vision models -1 ... 1 instead of what they were trained on.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from diffusability.data.images import ImageSet
from diffusability.encoders.interface import Encoder
from diffusability.encoders.load import WEIGHTS, PublishedWeights
from diffusability.encoders.packages import import_extra
from diffusability.encoders.vision_weights import UNUSED, read_weights, to_network
from diffusability.encoders.weights import State, load_weights, read_tensors, without
from diffusability.errors import StudyError
from diffusability.study.entries.encoder import TimmEncoder, VisionEncoder
from diffusability.study.entries.vision_models import CELL, FACTS, VisionFacts, VisionModel


class Vision(PublishedWeights[VisionEncoder]):
    """Encoders of kind vision."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy the weights that patch features depend on."""
        import_vision(self.spec.model, source, target)

    def load(self, folder: Path, data: ImageSet) -> Encoder:
        """Return the encoder for images of the dataset's size."""
        state = load_file(folder / WEIGHTS)
        side = data.images.shape[-1]
        return load_vision_encoder(self.spec.model, state, side, facts=self.spec.facts)


class TimmModel(PublishedWeights[TimmEncoder]):
    """Encoders of kind timm."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy the weights that patch features depend on, under timm's names.

        Raises:
            StudyError: timm has no such vision transformer.
            ArtifactError: the weights do not fit it.
        """
        state = without(read_tensors(self.spec.model, source), UNUSED)
        self._encoder(CELL, state)  # refuses what does not fit
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)

    def load(self, folder: Path, data: ImageSet) -> Encoder:
        """Return the encoder for images of the dataset's size."""
        return self._encoder(data.images.shape[-1], load_file(folder / WEIGHTS))

    @cached_property
    def facts(self) -> VisionFacts:
        """What timm's network, built on the meta device, states of itself.

        Raises:
            StudyError: timm has no such vision transformer.
        """
        spec, what = self.spec, f"timm's {self.spec.model}"
        create = import_extra("timm", what).create_model
        try:
            with torch.device("meta"):
                network = create(spec.model, pretrained=False, num_classes=0, **spec.options)
            patch, prefix = network.patch_embed.patch_size[0], network.num_prefix_tokens
            size = (network.num_features, len(network.blocks))
        except (AttributeError, TypeError, RuntimeError, ValueError) as error:
            raise StudyError(
                f"{what}: it is no vision transformer whose patch features can be read "
                f"({type(error).__name__}: {error!s:.200})"
            ) from error
        taken = getattr(getattr(network.patch_embed, "proj", None), "in_channels", 3)
        if taken != 3:
            raise StudyError(
                f"{what}: takes images of {taken} channels, and is given three (grey ones are "
                "repeated); wrap it in a class of your own that converts them (kind python; of a "
                "score: --encoder my_package:Encoder)"
            )
        stated = network.pretrained_cfg
        norm = (spec.mean or tuple(stated["mean"]), spec.std or tuple(stated["std"]))
        hub = f"timm/{spec.model}"
        return VisionFacts(spec.model, hub, patch, *size, prefix, norm, True, "bicubic")

    def _encoder(self, image_side: int, state: State) -> Encoder:
        network = build_network(self.facts, image_side, **self.spec.options)
        load_weights(
            self.spec.model,
            network,
            to_network(self.spec.model, self.facts, network, state),
            unused=UNUSED,
            architecture=f"timm's {self.spec.model}",
            hub=self.facts.hub,
        )
        return VisionModelEncoder(self.facts, network)


class VisionModelEncoder(Encoder):
    """Patch features of a frozen vision model; class and register tokens are dropped."""

    mean: Tensor
    std: Tensor

    def __init__(self, facts: VisionFacts, network: nn.Module) -> None:
        """Wrap a network of the given facts; it is frozen and set to evaluation."""
        super().__init__()
        self.facts, self.network = facts, network
        self.grid_channels = facts.channels
        for name, values in zip(("mean", "std"), facts.norm, strict=True):
            column = torch.tensor(values).view(3, 1, 1)  # (3, 1, 1)
            self.register_buffer(name, column, persistent=False)
        self.eval().requires_grad_(False)

    def preprocess(self, images: Tensor) -> Tensor:
        """Return what the network is given: resized, on its own scale, in float32.

        Args:
            images: (B, C, H, W) in -1 ... 1; one channel is repeated to three.

        Returns:
            (B, 3, h, w) with h = patch · max(1, ⌊H / 16⌋), and w likewise.

        Raises:
            StudyError: if there are neither one nor three channels.
        """
        if images.shape[1] not in (1, 3):
            raise StudyError(
                f"a vision model takes images of one or three channels, not {images.shape[1]}; "
                "align with an encoder that the study trains instead"
            )
        unit = (images.float() + 1) / 2  # 0 ... 1
        size = tuple(self.facts.input_side(side) for side in images.shape[2:])
        if unit.shape[2:] != size:
            unit = functional.interpolate(
                unit, size=size, mode=self.facts.resize, align_corners=False
            )
        return (unit - self.mean) / self.std  # a single channel is repeated by broadcasting

    @torch.no_grad()
    def grid(self, images: Tensor) -> Tensor:
        """Return the (B, D, ⌊H / 16⌋, ⌊W / 16⌋) patch features in float32, rows from the top."""
        pixels = self.preprocess(images)
        rows, columns = (side // self.facts.patch for side in pixels.shape[2:])
        tokens = patch_tokens(self.network, self.facts, pixels)  # (B, rows · columns, D)
        return tokens.float().transpose(1, 2).unflatten(2, (rows, columns))


def patch_tokens(network: Any, facts: VisionFacts, pixels: Tensor) -> Tensor:
    """Return the (B, N, D) features of the patches of preprocessed images, row by row."""
    if facts.library == "transformers":
        return network(pixels).last_hidden_state[:, facts.prefix :]
    (tokens,) = network.forward_intermediates(
        pixels, indices=1, norm=facts.final_norm, output_fmt="NLC", intermediates_only=True
    )
    return tokens  # timm has cut the prefix itself


def build_network(facts: VisionFacts, image_side: int, **changes: Any) -> nn.Module:
    """Return the network with random weights for square images of a given side.

    Positions are laid out for that side, which is that of a study's images; other sizes interpolate
    them at every call, as the library does (bicubically).

    Args:
        facts: of the model.
        image_side: pixels of an image of the study, before resizing.
        changes: options of the library that replace the published ones, e.g. a smaller depth.

    Raises:
        StudyError: the library is not installed, or does not import.
    """
    what = f"vision model {facts.network}"
    if facts.library == "transformers":
        dinov2 = import_extra("transformers.models.dinov2.modeling_dinov2", what)
        heads = facts.channels // 64
        sizes = {"hidden_size": facts.channels, "num_attention_heads": heads, "image_size": 224}
        depth = {"num_hidden_layers": changes.get("depth", facts.depth), "patch_size": facts.patch}
        return dinov2.Dinov2Model(dinov2.Dinov2Config(**sizes, **depth))
    network: nn.Module = import_extra("timm", what).create_model(
        facts.network,
        pretrained=False,
        num_classes=0,
        global_pool="",
        img_size=facts.input_side(image_side),
        dynamic_img_size=True,
        **changes,
    )
    rope: Any = getattr(network, "rope", None)
    if hasattr(rope, "ref_feat_shape"):
        # timm rescales the Perception Encoder's rotary positions to the grid of its pre-training;
        # Meta's code, and iREPA's, counts the cells of whatever grid there is
        rope.ref_feat_shape = None
    return network


def load_vision_encoder(
    model: VisionModel,
    state: State,
    image_side: int,
    *,
    facts: VisionFacts | None = None,
    **changes: Any,
) -> VisionModelEncoder:
    """Return the encoder with the weights of `read_weights`, or of its artifact.

    Args:
        model: name of the model.
        state: tensors by name.
        image_side: pixels of an image; position embeddings are resampled to its grid once, as the
            model's authors do.
        facts: of the model, where they are not those of iREPA.
        changes: see `build_network`.

    Raises:
        ArtifactError: names or shapes do not fit the model; the message lists them.
    """
    facts = facts or FACTS[model]
    network = build_network(facts, image_side, **changes)
    load_weights(
        model,
        network,
        to_network(model, facts, network, state),
        unused=UNUSED,
        architecture=f"{facts.library}'s {facts.network}",
        hub=facts.hub,
    )
    return VisionModelEncoder(facts, network)


def import_vision(model: VisionModel, path: Path, target: Path) -> None:
    """Copy the weights of a published file that features depend on, once they fit their model.

    Args:
        model: name of the model.
        path: see `read_weights`.
        target: safetensors file to write; `load_vision_encoder` takes its tensors.

    Raises:
        ArtifactError: the file is missing, damaged, or of another network.
    """
    state = read_weights(model, path)
    load_vision_encoder(model, state, image_side=256)  # refuses what does not fit
    save_file(state, target)
