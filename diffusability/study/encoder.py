"""Frozen networks: targets of alignment, perceptual terms, extractors of Fréchet distances."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from diffusability.study.representations import (
    REPRESENTATIONS,
    Representation,
    representation_file,
)
from diffusability.study.spec import Need, Place, Spec, TrainSpec
from diffusability.study.vision_models import FACTS, VisionModel, weight_file

Use = Literal["alignment", "perceptual", "features", "lpips"]


class TrainedEncoder(Spec):
    """A small convolutional network that the study trains itself on its own images.

    Its last feature map is the target of alignment; its pooled features, and where it has them
    its class probabilities, judge generated images when it serves as the extractor.
    """

    uses: ClassVar[frozenset[Use]] = frozenset({"alignment", "perceptual", "features"})

    width: PositiveInt = Field(32, description="channels after the first convolution")
    features: PositiveInt = Field(64, description="channels of the last feature map")
    factor: Literal[1, 2, 4, 8, 16] = Field(
        2, description="image pixels per cell of the feature map, along one side"
    )
    seed: NonNegativeInt = Field(0, description="seed of initialisation and data order")
    train: TrainSpec


class SupervisedEncoder(TrainedEncoder):
    """Trained to name the class."""

    kind: Literal["supervised"]


class ContrastiveEncoder(TrainedEncoder):
    """Trained to tell two views of one image from views of others (SimCLR)."""

    kind: Literal["contrastive"]
    projection: PositiveInt = Field(64, description="channels that the views are compared in")
    temperature: float = Field(0.2, gt=0, description="of the softmax over the batch")


class MaskedEncoder(TrainedEncoder):
    """Trained to fill in hidden cells of an image (a masked autoencoder)."""

    kind: Literal["masked"]
    ratio: float = Field(0.6, gt=0, lt=1, description="share of the cells that are hidden")


class PublishedEncoder(Spec):
    """A network with published weights: nothing is trained, the weights are copied and hashed."""

    uses: ClassVar[frozenset[Use]]

    weights: Annotated[str | None, Field(exclude=True)] = Field(
        None, description="weight file; not part of the fingerprint"
    )

    @property
    def factor(self) -> int:
        """A published network resizes what it is given: any image size will do."""
        return 1


class VisionEncoder(PublishedEncoder):
    """One of the fifteen vision models that Table 1 of the paper aligns tokenizers with.

    Without `weights` the file is looked for in the local cache of the model hub.
    """

    uses = frozenset({"alignment", "features"})

    kind: Literal["vision"]
    model: VisionModel

    def needs(self) -> tuple[Need, ...]:
        """The weight file: the one given, or that of the hub's cache."""
        remedy = (
            f"download model.safetensors of {FACTS[self.model].hub} into the model hub's cache "
            "(HF_HUB_CACHE, or HF_HOME/hub), or set the encoder's `weights` to a file"
        )
        return (Need(f"weights of {self.model}", weight_file(self.model, self.weights), remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return (FACTS[self.model].library,)


class RepresentationEncoder(PublishedEncoder):
    """One of the five networks that FDr6 judges images with, beside Inception.

    Without `weights` the file is looked for in the local cache of the model hub.
    """

    uses = frozenset({"features"})

    kind: Literal["representation"]
    model: Representation

    def needs(self) -> tuple[Need, ...]:
        """The weight file: the one given, or that of the hub's cache."""
        remedy = (
            f"download model.safetensors of {REPRESENTATIONS[self.model].hub} into the model "
            "hub's cache (HF_HUB_CACHE, or HF_HOME/hub), or set the encoder's `weights` to a file"
        )
        what = f"weights of the representation {self.model}"
        return (Need(what, representation_file(self.model, self.weights), remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return ("timm",)


class InceptionEncoder(PublishedEncoder):
    """Inception-v3 as the original FID uses it: 2,048 features and 1,008 logits."""

    uses = frozenset({"features"})

    kind: Literal["inception"]
    weights: Place = Field(description="weight file of torch-fidelity's Inception")

    def needs(self) -> tuple[Need, ...]:
        """The weight file."""
        remedy = (
            "download weights-inception-2015-12-05-6726825d.pth (torch-fidelity's release) and "
            "set the encoder's `weights` to it"
        )
        return (Need("weights of Inception-v3", Path(self.weights), remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return ("torch_fidelity",)


class LpipsEncoder(PublishedEncoder):
    """VGG-16 under the linear layers of LPIPS: the perceptual term of Eq. 12."""

    uses = frozenset({"perceptual", "lpips"})

    smallest: ClassVar[int] = 16  # side in pixels that survives four halvings

    kind: Literal["lpips"]
    weights: Place = Field(description="weight file of torchvision's VGG-16")

    def needs(self) -> tuple[Need, ...]:
        """The weight file."""
        remedy = "download vgg16-397923af.pth (torchvision) and set the encoder's `weights` to it"
        return (Need("VGG-16 weights of LPIPS", Path(self.weights), remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the linear layers."""
        return ("lpips",)


EncoderSpec = Annotated[
    SupervisedEncoder
    | ContrastiveEncoder
    | MaskedEncoder
    | VisionEncoder
    | RepresentationEncoder
    | InceptionEncoder
    | LpipsEncoder,
    Field(discriminator="kind"),
]
