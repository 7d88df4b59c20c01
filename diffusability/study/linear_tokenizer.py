"""Tokenizers that are not trained by gradient: linear maps of the image, controls of the others."""

from typing import Literal, get_args

from pydantic import Field, PositiveInt, model_validator

from diffusability.study.spec import Spec

LinearSource = Literal[
    "pixels", "permuted-pixels", "permuted-positions", "pca", "projection", "haar"
]
LINEAR_SOURCES: tuple[LinearSource, ...] = get_args(LinearSource)
WHOLE = ("pixels", "permuted-pixels", "permuted-positions")  # these keep every pixel


class LinearTokenizer(Spec):
    """A linear isometry of images, or one on a subspace of them, and its transpose as decoder.

    - pixels: the image itself; permuted-pixels: its entries in a fixed random order, and
      permuted-positions: its pixels, each with all its channels;
    - pca and projection: the coordinates on d = channels x (size / factor)^2 orthonormal
      directions, the principal or random ones, in serpentine order;
    - haar: the low-pass band of an orthonormal Haar pyramid, factor times the mean of a cell.
    """

    source: LinearSource
    factor: PositiveInt = Field(1, description="image pixels per latent cell, along one side")
    channels: PositiveInt = Field(description="channels of the latent")

    @model_validator(mode="after")
    def _factor(self) -> "LinearTokenizer":
        if self.source in WHOLE and self.factor != 1:
            raise ValueError(f"source {self.source} keeps every pixel, so its factor is 1")
        if self.source == "haar" and self.factor & (self.factor - 1):
            raise ValueError(f"source haar halves the image, {self.factor} is no power of two")
        return self

    def problem(self, image_channels: int) -> str | None:
        """Return what is wrong with the latent's size for images of some channels, if anything."""
        if self.source in (*WHOLE, "haar") and self.channels != image_channels:
            return f"source {self.source} has the image's channels, {image_channels}"
        if self.channels > (entries := image_channels * self.factor**2):
            return (
                f"{self.channels} channels per cell of {self.factor} x {self.factor} pixels are "
                f"more than the {entries} entries of those pixels: an isometry cannot have more "
                "dimensions than the image"
            )
        return None

    @property
    def cluster(self) -> str:
        """The kind of map."""
        return self.source

    @property
    def family(self) -> str:
        """Kind and latent size."""
        return f"{self.source}-f{self.factor}d{self.channels}"

    @property
    def encoders(self) -> dict[str, str]:
        """None: nothing is trained."""
        return {}
