"""Diffusion backbones: network, process and training."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from diffusability.study.core.registry import Registry
from diffusability.study.core.spec import (
    Blocks,
    Multiplier,
    Probability,
    Spec,
    TrainSpec,
    Width,
    is_none,
)

# width, depth, heads of the published sizes (DiT, Table 1; SiT and LightningDiT share them)
PUBLISHED_SIZES = {
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
FLOW_OPTIONS = ("time", "cosine")  # what EDM's training has no use for


class EDMTraining(Spec):
    """Noise levels and data scale of EDM's training (arXiv 2206.00364, Table 1)."""

    log_sigma_mean: float = Field(
        -1.2,
        description="mean of ln sigma in training; EDM's -1.2 is for data of standard deviation "
        "0.5, at 1 the same noise relative to the data is -0.51",
    )
    log_sigma_std: float = Field(1.2, gt=0, description="standard deviation of ln sigma")
    sigma_data: float = Field(
        1.0,
        gt=0,
        description="standard deviation of the data: 1, as latents are z-scored per channel",
    )


class DiffusionTraining(TrainSpec):
    """How a diffusion model is optimised, and at which steps it is looked at.

    A snapshot is what a training of so many steps ends with, to the bit: the learning rate is
    constant after the warm-up, and neither the order of images nor the random numbers depend on
    the number of steps.
    """

    snapshots: tuple[PositiveInt, ...] = Field(
        (),
        exclude_if=lambda snapshots: not snapshots,
        description="earlier steps whose averaged weights are kept, sampled and measured too; the "
        "last step always is. Needs schedule constant: a snapshot equals a training of its length",
    )

    @field_validator("snapshots")
    @classmethod
    def _ascending(cls, snapshots: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(snapshots)) != len(snapshots):
            raise ValueError(f"duplicate step in {list(snapshots)}")
        return tuple(sorted(snapshots))

    @model_validator(mode="before")
    @classmethod
    def _without_last(cls, data: Any) -> Any:
        """Leave out the last step: naming it changes nothing, so it changes no fingerprint."""
        if not isinstance(data, dict) or not isinstance(data.get("snapshots"), list | tuple):
            return data
        return data | {"snapshots": [s for s in data["snapshots"] if s != data.get("steps")]}

    @model_validator(mode="after")
    def _reached_at_a_constant_rate(self) -> "DiffusionTraining":
        if self.snapshots and self.snapshots[-1] > self.steps:
            raise ValueError(
                f"snapshots: step {self.snapshots[-1]} is after the last of {self.steps} steps"
            )
        if self.snapshots and self.schedule != "constant":
            raise ValueError(
                "snapshots: need schedule constant; with a cosine, earlier weights are those of a "
                "learning rate that has not decayed, which no training of that length ends with"
            )
        return self


class Backbone(Spec):
    """What every diffusion model on latents has, whatever its network.

    A backbone is declared with `BACKBONES.add`: a subclass with `arch: Literal["its name"]`, and
    the `diffusion.network.LatentNetwork` that takes it as `module:class`.

    Two processes noise the latents. `flow` learns the velocity of the linear path; `edm` a
    preconditioned denoiser. The options `time` and `cosine` belong to `flow` and are in no
    canonical form of the other.
    """

    arch: str = Field(description="the network")
    time: Literal["uniform", "logit-normal"] = Field(
        "uniform", description="distribution of the time in training"
    )
    cosine: NonNegativeFloat = Field(0.0, description="weight of the directional loss")
    class_dropout: Probability = Field(
        0.1,
        description="share of labels replaced by null; 1: unconditional, also when sampling; "
        "0: never without a label, so it cannot be guided",
    )
    process: Literal["flow", "edm"] = Field(
        "flow",
        exclude_if=lambda process: process == "flow",
        description="velocity of the linear path, or EDM's denoiser",
    )
    edm: EDMTraining | None = Field(
        None, exclude_if=is_none, description="options of process edm; its defaults if left out"
    )
    latent_scale: Literal["means", "draws"] = Field(
        "means",
        exclude_if=lambda scale: scale == "means",
        description="latents are divided by the spread of posterior means, or of draws from the "
        "posteriors, which is what LightningDiT divides by and training sees",
    )
    train: DiffusionTraining
    gpus: PositiveInt = Field(
        1,
        exclude=True,
        description="processes that share every batch, one GPU each; execution, in no fingerprint",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_process(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("process") != "edm":
            if data.get("edm") is not None:
                raise ValueError("`edm` holds options of process edm; the process here is flow")
            return data
        foreign = sorted(set(FLOW_OPTIONS) & set(data))
        if foreign:
            raise ValueError(
                f"{' and '.join(foreign)}: for process flow only; EDM draws ln sigma from a normal "
                "(edm.log_sigma_mean, edm.log_sigma_std) and weighs the squared error alone"
            )
        return data if data.get("edm") is not None else data | {"edm": {}}

    @model_validator(mode="after")
    def _whole_shares(self) -> "Backbone":
        parts = self.gpus * self.train.accumulation
        if self.train.batch % parts:
            raise ValueError(
                f"train.batch {self.train.batch} cannot be cut into gpus x train.accumulation "
                f"= {parts} equal parts"
            )
        return self

    @property
    def conditional(self) -> bool:
        """Whether the model is ever trained with a label."""
        return self.class_dropout < 1

    @property
    def unconditional(self) -> bool:
        """Whether the model is ever trained without a label: on the null class."""
        return self.class_dropout > 0

    def canonical(self) -> dict[str, Any]:
        """Return the resolved values without those that the process has no use for."""
        values = super().canonical()
        unused = FLOW_OPTIONS if self.process == "edm" else ()
        return {key: value for key, value in values.items() if key not in unused}

    def misfits(self, grid: int) -> Iterator[tuple[str, str]]:
        """Yield key and reason of every option that a latent of grid x grid cells rules out."""
        yield from ()


BACKBONES: Registry[Backbone] = Registry("backbone", tag="arch")


class TransformerBackbone(Backbone):
    """A diffusion transformer on latents; `size` fills width, depth and heads."""

    width: Width = Field(description="channels of a token")
    depth: Blocks = Field(description="blocks")
    heads: Width = Field(description="attention heads; divides width")
    patch: Width = Field(1, description="latent cells per token, along one side")

    @model_validator(mode="before")
    @classmethod
    def _published_size(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "size" not in data:
            return data
        data = dict(data)
        size = data.pop("size")
        if not isinstance(size, str) or size not in PUBLISHED_SIZES:
            raise ValueError(f"size {size!r} is none of {', '.join(PUBLISHED_SIZES)}")
        clash = sorted({"width", "depth", "heads"} & set(data))
        if clash:
            raise ValueError(
                f"size {size!r} already fixes {', '.join(clash)}; give one or the other"
            )
        return data | dict(zip(("width", "depth", "heads"), PUBLISHED_SIZES[size], strict=True))

    @model_validator(mode="after")
    def _heads_divide(self) -> "TransformerBackbone":
        if self.width % (4 * self.heads) != 0:
            raise ValueError(
                f"width {self.width} must be a multiple of 4 x heads ({4 * self.heads}): "
                "a head carries a two-dimensional position"
            )
        return self

    def misfits(self, grid: int) -> Iterator[tuple[str, str]]:
        """Yield the patch where it does not divide the grid."""
        if grid % self.patch:
            yield "patch", f"{self.patch} does not divide the {grid} x {grid} latent grid"


@BACKBONES.add("diffusability.diffusion.transformer:SiT")
class SiTBackbone(TransformerBackbone):
    """SiT: uniform time, mean squared error."""

    arch: Literal["sit"]


@BACKBONES.add("diffusability.diffusion.transformer:LightningDiT")
class LightningDiTBackbone(TransformerBackbone):
    """LightningDiT: logit-normal time, mean squared error plus cosine."""

    arch: Literal["lightningdit"]
    time: Literal["uniform", "logit-normal"] = Field(
        "logit-normal", description="distribution of the time in training"
    )
    cosine: NonNegativeFloat = Field(1.0, description="weight of the directional loss")


@BACKBONES.add("diffusability.diffusion.unet:LatentUNet")
class UNetBackbone(Backbone):
    """The residual U-Net of EDM; defaults are those of its FFHQ 64 x 64 model."""

    arch: Literal["unet"]
    width: Width = Field(128, description="channels in front of the multipliers; even")
    multipliers: tuple[Multiplier, ...] = Field(
        (1, 2, 2, 2),
        min_length=1,
        description="channels at each resolution, in units of `width`; the grid halves between two",
    )
    blocks: Blocks = Field(4, description="residual blocks per resolution, on the way down")
    attention: tuple[PositiveInt, ...] = Field(
        (16,),
        description="sides of the grids, in cells, with attention; the middle always has it",
    )
    heads: Width = Field(1, description="attention heads; divides the channels there")

    @model_validator(mode="after")
    def _heads_divide(self) -> "UNetBackbone":
        if self.width % 2 or self.width % self.heads:
            raise ValueError(
                f"width {self.width} must be even, as its noise sinusoid is, and a multiple of "
                f"the {self.heads} heads"
            )
        return self

    def misfits(self, grid: int) -> Iterator[tuple[str, str]]:
        """Yield too many halvings, and attention at a side that no resolution has."""
        halvings = len(self.multipliers) - 1
        if grid % 2**halvings:
            yield (
                "multipliers",
                f"{halvings + 1} resolutions need {halvings} halvings, too many for the "
                f"{grid} x {grid} latent grid",
            )
            return
        sides = [grid >> level for level in range(halvings + 1)]
        for side in self.attention:
            if side not in sides:
                listing = ", ".join(map(str, sides))
                yield (
                    "attention",
                    f"{side} is the side of no resolution ({listing}) of the {grid} x {grid} "
                    "latent grid",
                )


BackboneSpec = Annotated[Backbone, BACKBONES]
