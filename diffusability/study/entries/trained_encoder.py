"""Encoders that a study trains itself on its own images."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from diffusability.study.core.spec import Probability, TrainSpec, Width, is_none
from diffusability.study.entries.encoder_entry import ENCODERS, EncoderEntry
from diffusability.study.entries.operations import Size, trained_encoder

VIT_DEPTH, VIT_HEADS = 3, 4  # of an encoder of `arch: vit` that states neither
DENSE = 0.5  # weight of the contrast of tokens, likewise


Arch = Literal["convnet", "vit"]


def is_convnet(arch: object) -> bool:
    """Return whether the network is the one that encoders had before `arch` (see `Spec`)."""
    return arch == "convnet"


class TrainedEncoder(EncoderEntry):
    """A small network that the study trains itself on its own images.

    Its last feature map is the target of alignment; its pooled features, and where it has them
    its class probabilities, judge generated images when it serves as the extractor. A position of
    a `convnet` sees a few pixels around it, every token of a `vit` sees the whole image.
    """

    uses = frozenset({"alignment", "perceptual", "features"})
    needs_images = True

    arch: Arch = Field(
        "convnet",
        exclude_if=is_convnet,
        description="the network: convolutions, or a transformer whose tokens see the whole image",
    )
    width: Width = Field(
        32, description="channels after the first convolution, or of a transformer's token"
    )
    depth: PositiveInt | None = Field(
        None, exclude_if=is_none, description="transformer blocks, 3 by default; of `vit` only"
    )
    heads: PositiveInt | None = Field(
        None,
        exclude_if=is_none,
        description="attention heads, 4 by default; 4 x heads divides width; of `vit` only",
    )
    features: Width = Field(64, description="channels of the last feature map")
    factor: Literal[1, 2, 4, 8, 16] = Field(
        2,
        description="image pixels per cell of the feature map, along one side; the patch of `vit`",
    )
    seed: NonNegativeInt = Field(0, description="seed of initialisation and data order")
    train: TrainSpec = Field(description="how it is optimised")

    @model_validator(mode="after")
    def _blocks_to_recompute(self) -> "TrainedEncoder":
        if self.train.activation_checkpointing and self.arch == "convnet":
            raise ValueError(
                "train.activation_checkpointing must be false: a convnet has no blocks to compute "
                "again, only arch vit has"
            )
        return self

    @model_validator(mode="after")
    def _transformer(self) -> "TrainedEncoder":
        if self.arch == "convnet":
            given = [name for name in ("depth", "heads") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"`{given[0]}` is an option of `arch: vit`; this is a convnet")
        elif self.width % (4 * self.vit_heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 4 x heads ({4 * self.vit_heads}): "
                "a head carries a two-dimensional position"
            )
        return self

    @property
    def smallest_image(self) -> int:
        """One patch of a transformer; convolutions are padded."""
        return self.factor if self.arch == "vit" else 1

    @property
    def vit_depth(self) -> int:
        """Transformer blocks."""
        return VIT_DEPTH if self.depth is None else self.depth

    @property
    def vit_heads(self) -> int:
        """Attention heads of a block."""
        return VIT_HEADS if self.heads is None else self.heads

    def cost(self, channels: int, side: int, classes: int) -> Size:
        """Counted from the options, class logits included."""
        return trained_encoder(self, channels, side, classes)


@ENCODERS.add("diffusability.encoders.pretext:Classification")
class SupervisedEncoder(TrainedEncoder):
    """Trained to name the class."""

    names_classes = True

    kind: Literal["supervised"] = Field(description="trained to name the class")


@ENCODERS.add("diffusability.encoders.contrastive:Contrastive")
class ContrastiveEncoder(TrainedEncoder):
    """Trained to tell two views of one image from views of others (SimCLR, DenseCL)."""

    kind: Literal["contrastive"] = Field(description="trained to tell views of images apart")
    projection: Width = Field(64, description="channels that the views are compared in")
    temperature: float = Field(0.2, gt=0, description="of the softmax over the batch")
    dense: Probability | None = Field(
        None,
        exclude_if=is_none,
        description="share of the contrast of single tokens in the loss (DenseCL); by default 0.5 "
        "for `vit` and 0 for `convnet`",
    )

    @model_validator(mode="after")
    def _whole_batches(self) -> "ContrastiveEncoder":
        if self.train.accumulation > 1:
            raise ValueError(
                "train.accumulation must be 1: the loss compares all views of a batch with each "
                "other"
            )
        if self.train.compile and self.dense_share:
            raise ValueError(
                "train.compile must be false: it compiles a forward pass, and single tokens are "
                "contrasted in the feature map; dense: 0 leaves them out"
            )
        return self

    @property
    def dense_share(self) -> float:
        """Share of the contrast of single tokens in the loss."""
        if self.dense is not None:
            return self.dense
        return DENSE if self.arch == "vit" else 0.0


@ENCODERS.add("diffusability.encoders.masked:Masked")
class MaskedEncoder(TrainedEncoder):
    """Trained to fill in hidden cells of an image (a masked autoencoder)."""

    kind: Literal["masked"] = Field(description="trained to fill in hidden cells of an image")
    ratio: float = Field(0.6, gt=0, lt=1, description="share of the cells that are hidden")

    @model_validator(mode="after")
    def _cells_of_several_pixels(self) -> "MaskedEncoder":
        if self.arch == "vit" and self.factor == 1:
            raise ValueError(
                "a masked `vit` predicts patches scaled to variance one, and a patch of one pixel "
                "has none; use a factor of 2 or more"
            )
        return self

    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """Some cells must be hidden and some seen."""
        yield from super().misfits(size)
        if size % self.factor:
            return
        cells = (size // self.factor) ** 2
        hidden = round(self.ratio * cells)
        if not 0 < hidden < cells:
            yield (
                "ratio",
                f"{self.ratio} hides {hidden} of {cells} cells of {self.factor} x {self.factor} "
                "pixels; some must be hidden and some seen",
            )
