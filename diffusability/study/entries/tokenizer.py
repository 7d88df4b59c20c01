"""Tokenizers that are not trained, by their `source`, and how latents are cached.

Those that a study trains are in `trained_tokenizer.py`.
"""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from diffusability.study.core.names import EncoderName, Name
from diffusability.study.core.registry import Registry
from diffusability.study.core.spec import COMPUTED, NamedContent, Need, Place, Spec, is_none
from diffusability.study.entries.network import HierarchicalNetwork, NetworkSpec
from diffusability.study.entries.operations import Autoencoder, linear_map
from diffusability.study.entries.tokenizer_entry import NetworkEntry, TokenizerEntry
from diffusability.study.sources.content import content_digest
from diffusability.study.sources.image_channels import (
    channels_misfit,
    channels_of_folder,
    repeats_grey,
)
from diffusability.study.sources.python_object import WeightedObject

MEANS = "-means"  # end of the families of posterior means
TOKENIZER_FILES = (".json", ".safetensors")  # of a published autoencoder; others do not count


class SourcedTokenizer(TokenizerEntry):
    """A tokenizer that is not trained: its `source` says where it comes from.

    A source is declared with its `TokenizerSource`.
    """

    source: str

    @property
    def cluster(self) -> str:
        """The source; it is none of the paper's clusters."""
        return self.source

    @property
    def family(self) -> str:
        """Source and latent size."""
        return f"{self.source}-f{self.factor}d{self.channels}"


TOKENIZER_SOURCES: Registry[SourcedTokenizer] = Registry("source", "source")


@TOKENIZER_SOURCES.add("diffusability.tokenizers.external:Diffusers")
class ExternalTokenizer(SourcedTokenizer):
    """A published autoencoder in a local folder: nothing is trained, the weights are copied.

    `factor` and `channels` are stated so that a study can be planned without the folder; they are
    compared with it when it is read. The content of the folder is part of the fingerprint where it
    is there when the study is planned; where it is not, the name `content` stands for it.
    """

    source: Literal["diffusers"] = Field(
        description="folder of config.json and safetensors of an autoencoder of images, of any "
        "class of diffusers: AutoencoderKL, AutoencoderDC, AutoencoderTiny, AutoencoderRAE, ..."
    )
    path: Place = Field(description="the folder; not part of the fingerprint")
    content: str = Field(
        json_schema_extra={"filled": True},
        description="name of what the folder holds; part of the fingerprint. By default the "
        "SHA-256 of its files, or the folder's last name while it is not there",
    )
    factor: PositiveInt = Field(description="image pixels per latent cell, along one side")
    channels: PositiveInt = Field(description="channels of the latent")

    @model_validator(mode="before")
    @classmethod
    def _name_content(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("path"), str):
            return data
        if "content" in data:
            return data
        found = content_digest(data["path"], TOKENIZER_FILES)
        return data | {"content": found or PurePath(data["path"]).name}

    @property
    def cluster(self) -> str:
        """Not one of the paper's clusters."""
        return "external"

    def named_contents(self) -> tuple[NamedContent, ...]:
        """The folder, where the study names its content."""
        found = content_digest(self.path, TOKENIZER_FILES)
        if found in (None, self.content):
            return ()
        return (NamedContent("autoencoder files", self.content, {"folder": found}, self.path),)

    def misfits(self, size: int, image_channels: int) -> Iterator[tuple[str, str]]:
        """Also images of other channels than its network's, as far as the folder is there."""
        yield from super().misfits(size, image_channels)
        taken = channels_of_folder(self.path)
        if taken is not None and (reason := channels_misfit(taken, image_channels)):
            yield "path", f"the autoencoder in {self.path} {reason}"

    def repeats_grey(self, image_channels: int) -> bool:
        """Return whether it is known to take grey images of a study as three equal channels."""
        return repeats_grey(channels_of_folder(self.path), image_channels)

    def needs(self) -> tuple[Need, ...]:
        """The folder."""
        remedy = "set the tokenizer's `path` to a folder with config.json and *.safetensors"
        return (Need(f"autoencoder `{self.path}`", Path(self.path), remedy),)

    def packages(self) -> tuple[str, ...]:
        """The library that holds the architecture."""
        return (self.source,)


@TOKENIZER_SOURCES.add("diffusability.tokenizers.python_object:PythonSource")
class PythonTokenizer(SourcedTokenizer, WeightedObject):
    """A tokenizer of the user's own package; see `tokenizers/python_object.py`.

    What it returns is compared with `factor` and `channels` on images of the study.
    """

    needs_images = True

    source: Literal["python"] = Field(
        description="a module with encode and decode, of your own package"
    )
    factor: PositiveInt = Field(description="image pixels per latent cell, along one side")
    channels: PositiveInt = Field(description="channels of the latent")

    @property
    def cluster(self) -> str:
        """Not one of the paper's clusters."""
        return "external"


LinearSource = Literal[
    "pixels", "permuted-pixels", "permuted-positions", "pca", "projection", "haar"
]
WHOLE = ("pixels", "permuted-pixels", "permuted-positions")  # these keep every pixel


@TOKENIZER_SOURCES.add("diffusability.tokenizers.linear:Linear")
class LinearTokenizer(SourcedTokenizer):
    """A linear isometry of images, or one on a subspace of them, and its transpose as decoder.

    - pixels: the image itself; permuted-pixels: its entries in a fixed random order, and
      permuted-positions: its pixels, each with all its channels;
    - pca and projection: the coordinates on d = channels x (size / factor)^2 orthonormal
      directions, the principal or random ones, in serpentine order;
    - haar: the low-pass band of an orthonormal Haar pyramid, factor times the mean of a cell.
    """

    needs_images = True

    source: LinearSource = Field(description="which linear map")
    factor: PositiveInt = Field(1, description="image pixels per latent cell, along one side")
    channels: PositiveInt = Field(description="channels of the latent")

    @model_validator(mode="after")
    def _factor(self) -> "LinearTokenizer":
        if self.source in WHOLE and self.factor != 1:
            raise ValueError(f"source {self.source} keeps every pixel, so its factor is 1")
        if self.source == "haar" and self.factor & (self.factor - 1):
            raise ValueError(f"source haar halves the image, {self.factor} is not a power of two")
        return self

    def misfits(self, size: int, image_channels: int) -> Iterator[tuple[str, str]]:
        """A linear isometry cannot have more dimensions than the image."""
        wrong = list(super().misfits(size, image_channels))
        yield from wrong
        if wrong:
            return
        if self.source in (*WHOLE, "haar") and self.channels != image_channels:
            yield "channels", f"source {self.source} has the image's channels, {image_channels}"
        elif self.channels > (entries := image_channels * self.factor**2):
            yield (
                "channels",
                f"{self.channels} channels per cell of {self.factor} x {self.factor} pixels are "
                f"more than the {entries} entries of those pixels: an isometry cannot have more "
                "dimensions than the image",
            )

    def cost(self, image_channels: int, side: int) -> Autoencoder:
        """That of its matrix, where it has one."""
        return linear_map(self, image_channels, side)


class DerivedTokenizer(NetworkEntry, SourcedTokenizer):
    """What a trained tokenizer also offers: its weights are copied, nothing is trained."""

    of: Name = Field(exclude=True, description="trained tokenizer; it enters by its fingerprint")
    network: NetworkSpec = Field(json_schema_extra=COMPUTED, description="that of `of`")

    @property
    def trained(self) -> str:
        """The tokenizer whose weights it takes."""
        return self.of

    def misfits(self, size: int, image_channels: int) -> Iterator[tuple[str, str]]:
        """As for the tokenizer that it is derived from; its `factor` is a key of its own."""
        wrong = list(SourcedTokenizer.misfits(self, size, image_channels))
        yield from wrong or ((f"network.{key}", why) for key, why in self.network.misfits(size))


@TOKENIZER_SOURCES.add("diffusability.tokenizers.derived:Level")
class LevelTokenizer(DerivedTokenizer):
    """Another level of a trained tokenizer of arch hierarchical."""

    source: Literal["level"] = Field(description="another level of a trained tokenizer")
    network: HierarchicalNetwork = Field(description="that of `of`, with this level's factor")

    @property
    def cluster(self) -> str:
        """That of the tokenizer which it is a level of."""
        return "baseline"

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return self.network.family


@TOKENIZER_SOURCES.add("diffusability.tokenizers.derived:Means")
class MeansTokenizer(DerivedTokenizer):
    """The posterior means of a trained tokenizer, without the noise of its posteriors.

    Diffusion models are then trained on means in the place of draws. It is of a family of its own,
    because it is not independent of the tokenizer that it is derived from.
    """

    source: Literal["means"] = Field(description="the posterior means of a trained tokenizer")
    method: str = Field(exclude=True, json_schema_extra=COMPUTED, description="that of `of`")

    @property
    def cluster(self) -> str:
        """That of the tokenizer which it is derived from."""
        return self.method

    @property
    def family(self) -> str:
        """Architecture and latent size, and that latents are means."""
        return f"{self.network.family}{MEANS}"


@TOKENIZER_SOURCES.add("diffusability.tokenizers.stored:StoredLatents")
class LatentsTokenizer(SourcedTokenizer):
    """Latents that are on disk already, one per image, in the order of the dataset's images.

    Nothing encodes or decodes: metrics that need it are left out. They are read as they are; every
    metric normalises each channel by itself where it says so.
    """

    needs_images = True  # compared in number
    encodes = False
    decodes = False

    source: Literal["latents"] = Field(description="latents in a file")
    path: Place = Field(
        description="npy, npz, safetensors or zarr of (N, C, H, W), or of tokens (N, L, D); not "
        "part of the fingerprint"
    )
    content: str | None = Field(
        None,
        json_schema_extra=COMPUTED,
        description="SHA-256 of the file, or of the folder of zarr; part of the fingerprint",
    )
    key: str | None = Field(
        None, description="name of the array in the file; by default `latents`, `mean` or the only"
    )
    channels: PositiveInt = Field(description="channels C of the latent, or D of its tokens")
    factor: PositiveInt = Field(1, description="image pixels per latent cell, along one side")
    layout: Literal["grid", "tokens"] = Field(
        "grid", description="(N, C, H, W), or tokens (N, L, D) without a position on a grid"
    )

    @model_validator(mode="before")
    @classmethod
    def _hash_file(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "content" in data or not isinstance(data.get("path"), str):
            return data
        return data | {"content": content_digest(data["path"])}

    @property
    def cluster(self) -> str:
        """Not one of the paper's clusters."""
        return "external"

    def needs(self) -> tuple[Need, ...]:
        """The file."""
        remedy = "set the tokenizer's `path` to latents (.npy, .npz, .safetensors or .zarr)"
        return (Need("latents", Path(self.path), remedy),)


@TOKENIZER_SOURCES.add("diffusability.tokenizers.encoder_features:EncoderFeatures")
class EncoderTokenizer(SourcedTokenizer):
    """The feature map of a frozen encoder in the place of latents (representation autoencoders).

    Its patch tokens are the cells of a grid (D, h, w). Nothing decodes them: metrics that need
    images of latents are left out.
    """

    needs_images = True
    decodes = False

    source: Literal["encoder"] = Field(description="features of an encoder of the study")
    encoder: EncoderName = Field(
        exclude=True, description="entry of `encoders`; it enters by its fingerprint"
    )
    factor: PositiveInt = Field(
        description="image pixels per cell of the feature map, along one side; 16 of vision models"
    )
    channels: PositiveInt = Field(description="channels of the feature map")

    @property
    def cluster(self) -> str:
        """Not one of the paper's clusters."""
        return "external"

    @property
    def encoders(self) -> dict[str, str]:
        """The encoder."""
        return {"encoder": self.encoder}


class EncodingSpec(Spec):
    """How the latents of a tokenizer are cached."""

    shard: PositiveInt = Field(1024, description="images per shard file")
    batch: PositiveInt = Field(
        256,
        description="images read at a time; of images larger than 64 pixels fewer are encoded at "
        "once, in proportion to their area",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the stored moments")
    val_means: Literal["float32"] | None = Field(
        None,
        exclude_if=is_none,
        description="dtype of the posterior means of validation images, which metrics read; none: "
        "`dtype`. bfloat16 rounds each to 2^-9 of its size, which raises VIV: in simulations by "
        "less than 0.5 % where latents are rough, by up to 7 % where they are very smooth",
    )
    flip: bool = Field(
        False,
        exclude_if=lambda flip: not flip,
        description="encode the mirrored images too; training draws either with probability 1/2",
    )
