"""Frozen networks: targets of alignment, perceptual terms, extractors of Fréchet distances.

Published ones and those of the user's own are declared here; those that a study trains are in
`trained_encoder.py`.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, PositiveInt, model_validator

from diffusability.study.core.spec import COMPUTED, Need, OptionalPlace, Place, Width, is_none
from diffusability.study.entries.encoder_entry import ENCODERS, EncoderEntry
from diffusability.study.entries.operations import INCEPTION, Size, vgg16, vision_model
from diffusability.study.entries.representations import (
    REPRESENTATIONS,
    Representation,
    representation_file,
)
from diffusability.study.entries.trained_encoder import TrainedEncoder
from diffusability.study.entries.vision_models import (
    FACTS,
    Colour,
    VisionFacts,
    VisionModel,
    weight_file,
)
from diffusability.study.sources.content import content_digest
from diffusability.study.sources.python_object import WeightedObject

__all__ = ["ENCODERS", "EncoderEntry", "TrainedEncoder"]  # whole: all kinds are declared


class PublishedEncoder(EncoderEntry):
    """A network with published weights: nothing is trained, the weights are copied and hashed."""

    weights: OptionalPlace = Field(
        None, description="weight file; its content is part of the fingerprint, its path is not"
    )
    weights_content: str | None = Field(
        None,
        exclude_if=is_none,
        json_schema_extra=COMPUTED,
        description="SHA-256 of the weight file, where it is there when the study is planned",
    )

    @cached_property
    def content(self) -> str | None:
        """SHA-256 of the weights: as planned, else of the file, which is read when this is asked.

        A study may declare encoders of gigabytes that its selection does not use.
        """
        return self.weights_content or content_digest(self.weight_file)

    def canonical(self) -> dict[str, Any]:
        """Return the resolved values with the content of the weights, where they are there."""
        named = {} if self.content is None else {"weights_content": self.content}
        return super().canonical() | named

    @property
    def factor(self) -> int:
        """A published network resizes what it is given: any image size will do."""
        return 1

    @property
    def weight_file(self) -> Path:
        """Where the weights are looked for."""
        raise NotImplementedError(f"encoder of kind {self.kind}: state its weight file")


@ENCODERS.add("diffusability.encoders.vision:Vision")
class VisionEncoder(PublishedEncoder):
    """One of the fifteen vision models that Table 1 of the paper aligns tokenizers with.

    Without `weights` the file is looked for in the local cache of the model hub.
    """

    uses = frozenset({"alignment", "features"})

    kind: Literal["vision"] = Field(description="a vision model of Table 1")
    model: VisionModel = Field(description="name of the model")
    final_norm: bool | None = Field(
        None,
        exclude_if=is_none,
        description="features after the network's last norm, or before it; by default as in iREPA, "
        "whose names of models the paper shares (mae-l: before; VA-VAE takes it after)",
    )
    revision: int | None = Field(
        None,
        exclude_if=is_none,
        json_schema_extra=COMPUTED,
        description="version of what the features are, from 2 on",
    )

    @model_validator(mode="after")
    def _has_final_norm(self) -> "VisionEncoder":
        if self.final_norm and not FACTS[self.model].has_final_norm:
            raise ValueError(f"final_norm: {self.model} has no norm after its last block")
        return self

    @property
    def facts(self) -> VisionFacts:
        """What is known of the model, with the feature that the entry asks for."""
        facts = FACTS[self.model]
        return facts if self.final_norm is None else replace(facts, final_norm=self.final_norm)

    def canonical(self) -> dict[str, Any]:
        """Return the resolved values with the version of what the features are."""
        revision = FACTS[self.model].revision
        return super().canonical() | ({"revision": revision} if revision > 1 else {})

    @property
    def weight_file(self) -> Path:
        """The file given, or that of the hub's cache."""
        return weight_file(self.model, self.weights)

    def cost(self, channels: int, side: int, classes: int) -> Size:
        """Approximate: within two per cent."""
        return vision_model(self.model, side)

    def needs(self) -> tuple[Need, ...]:
        """The weight file: the one given, or that of the hub's cache."""
        remedy = (
            f"download model.safetensors of {FACTS[self.model].hub} into the model hub's cache "
            "(HF_HUB_CACHE, or HF_HOME/hub), or set the encoder's `weights` to a file"
        )
        return (Need(f"weights of {self.model}", self.weight_file, remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return (FACTS[self.model].library,)


@ENCODERS.add("diffusability.encoders.vision:TimmModel")
class TimmEncoder(PublishedEncoder):
    """A vision transformer of timm with a weight file of your own.

    Images are resized so that one patch covers 16 x 16 of their pixels. Features are the patch
    tokens after the last norm.
    """

    uses = frozenset({"alignment", "features"})

    kind: Literal["timm"] = Field(description="a vision transformer of timm, from a weight file")
    model: str = Field(min_length=1, description="name of timm's network: vit_small_patch16_224")
    weights: Place = Field(description="weight file of this network: safetensors, or a checkpoint")
    options: dict[str, JsonValue] = Field(
        {}, description="arguments of timm.create_model that the published network does not have"
    )
    mean: Colour | None = Field(
        None,
        exclude_if=is_none,
        description="of an image in 0 ... 1, which is subtracted; by default as timm states for "
        "this network",
    )
    std: Colour | None = Field(
        None,
        exclude_if=is_none,
        description="of an image in 0 ... 1, which is divided by; by default as timm states",
    )

    @property
    def weight_file(self) -> Path:
        """The file given."""
        return Path(self.weights)

    def cost(self, channels: int, side: int, classes: int) -> Size:
        """Unknown before it is built."""
        return Size()

    def needs(self) -> tuple[Need, ...]:
        """The weight file."""
        remedy = "set the encoder's `weights` to the model.safetensors that timm saved"
        return (Need(f"weights of {self.model}", self.weight_file, remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return ("timm",)


@ENCODERS.add("diffusability.encoders.representation:RepresentationSpace")
class RepresentationEncoder(PublishedEncoder):
    """One of the five networks that FDr6 judges images with, beside Inception.

    Without `weights` the file is looked for in the local cache of the model hub.
    """

    uses = frozenset({"features"})

    kind: Literal["representation"] = Field(description="a network of FDr6 other than Inception")
    model: Representation = Field(description="name of the network")

    @property
    def weight_file(self) -> Path:
        """The file given, or that of the hub's cache."""
        return representation_file(self.model, self.weights)

    def cost(self, channels: int, side: int, classes: int) -> Size:
        """Approximate published figures."""
        facts = REPRESENTATIONS[self.model]
        return Size(round(facts.parameters), round(facts.macs))

    def needs(self) -> tuple[Need, ...]:
        """The weight file: the one given, or that of the hub's cache."""
        remedy = (
            f"download model.safetensors of {REPRESENTATIONS[self.model].hub} into the model "
            "hub's cache (HF_HUB_CACHE, or HF_HOME/hub), or set the encoder's `weights` to a file"
        )
        what = f"weights of the representation {self.model}"
        return (Need(what, self.weight_file, remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return ("timm",)


@ENCODERS.add("diffusability.encoders.inception:Inception")
class InceptionEncoder(PublishedEncoder):
    """Inception-v3 as the original FID uses it: 2,048 features and 1,008 logits."""

    uses = frozenset({"features"})
    names_classes = True

    kind: Literal["inception"] = Field(description="Inception-v3 of the original FID")
    weights: Place = Field(description="weight file of torch-fidelity's Inception")

    @property
    def weight_file(self) -> Path:
        """The file given."""
        return Path(self.weights)

    def cost(self, channels: int, side: int, classes: int) -> Size:
        """Published figures, at 299 x 299."""
        return INCEPTION

    def needs(self) -> tuple[Need, ...]:
        """The weight file."""
        remedy = (
            "download weights-inception-2015-12-05-6726825d.pth (torch-fidelity's release) and "
            "set the encoder's `weights` to it"
        )
        return (Need("weights of Inception-v3", self.weight_file, remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return ("torch_fidelity",)


@ENCODERS.add("diffusability.tokenizers.perceptual:Lpips")
class LpipsEncoder(PublishedEncoder):
    """VGG-16 under the linear layers of LPIPS: the perceptual term of Eq. 12."""

    uses = frozenset({"perceptual", "lpips"})

    kind: Literal["lpips"] = Field(description="VGG-16 under LPIPS")
    weights: Place = Field(description="weight file of torchvision's VGG-16")

    @property
    def weight_file(self) -> Path:
        """The file given."""
        return Path(self.weights)

    @property
    def smallest_image(self) -> int:
        """Four halvings leave nothing of a smaller one."""
        return 16

    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """Images may be too small."""
        least = self.smallest_image
        if size < least:
            yield "", f"LPIPS needs images of {least} pixels a side, these have {size}"

    def cost(self, channels: int, side: int, classes: int) -> Size:
        """The convolutions of VGG-16."""
        return vgg16(side)

    def needs(self) -> tuple[Need, ...]:
        """The weight file."""
        remedy = "download vgg16-397923af.pth (torchvision) and set the encoder's `weights` to it"
        return (Need("VGG-16 weights of LPIPS", self.weight_file, remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the linear layers."""
        return ("lpips",)


@ENCODERS.add("diffusability.encoders.python_object:PythonFeatures")
class PythonEncoder(EncoderEntry, WeightedObject):
    """A frozen network of the user's own package; see `encoders/python_object.py`."""

    uses = frozenset({"alignment", "perceptual", "features"})
    needs_images = True
    names_classes = True

    kind: Literal["python"] = Field(description="a network of your own package")
    factor: PositiveInt = Field(
        1, description="image pixels per cell of the feature map, along one side"
    )
    features: Width = Field(description="channels D of the feature map")

    def cost(self, channels: int, side: int, classes: int) -> Size:
        """Unknown before it is imported."""
        return Size()
