"""Diffusion backbones and the sampling that follows their training."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from diffusability.study.registry import Registry
from diffusability.study.spec import (
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


class EDMSampling(Spec):
    """Noise levels of sampling from an EDM model, and the noise that is added on the way.

    The levels are evenly spaced in sigma^(1/rho) from `sigma_max` to `sigma_min`, then 0: as many
    as the solver's steps and one more.
    """

    sigma_min: float = Field(0.002, gt=0, description="smallest level above 0")
    sigma_max: float = Field(80.0, gt=0, description="level of the first noise")
    rho: float = Field(7.0, gt=0, description="exponent; a larger one makes more levels small")
    churn: NonNegativeFloat = Field(0.0, description="S_churn; 0 follows the deterministic flow")
    churn_min: NonNegativeFloat = Field(0.0, description="S_min, smallest level with fresh noise")
    churn_max: float | None = Field(None, gt=0, description="S_max, largest; none: no limit")
    churn_noise: float = Field(1.0, gt=0, description="S_noise, standard deviation of fresh noise")

    @model_validator(mode="after")
    def _ordered(self) -> "EDMSampling":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")
        if self.churn_max is not None and self.churn_min > self.churn_max:
            raise ValueError(f"churn_min {self.churn_min} is above churn_max {self.churn_max}")
        return self


Solver = Literal["euler", "heun"]


def solver_steps(solver: Solver, evaluations: int) -> int:
    """Return the steps that spend so many function evaluations; Heun's last step is Euler's."""
    return evaluations if solver == "euler" else (evaluations + 1) // 2


Scales = Annotated[tuple[Annotated[float, Field(ge=1.0, le=1000.0)], ...], Field(min_length=1)]


# of sampling, that only models of one process have a use for
PROCESS_OPTIONS = {"flow": ("shift", "guidance_interval"), "edm": ("edm",)}
GUIDANCE_OPTIONS = ("guidance_interval", "guidance_channels")  # without use at scale 1


class SamplingSpec(Spec):
    """How images are generated, the same for every cell of the study."""

    solver: Solver = Field("euler", description="ODE solver; heun is of second order")
    evaluations: PositiveInt = Field(
        50, description="function evaluations of the ODE solver, exactly"
    )
    guidance: Scales = Field((1.0,), description="classifier-free guidance scales; 1 is none")
    guidance_of: dict[str, Scales] = Field(
        {},
        exclude_if=lambda scales: not scales,
        description="other guidance scales of some backbones, by name",
    )
    guidance_channels: PositiveInt | None = Field(
        None,
        exclude_if=is_none,
        description="first channels of the latent that guidance acts on; none: all (the official "
        "SiT and LightningDiT samplers: 3)",
    )
    labels: Literal["balanced", "random"] = Field(
        "balanced",
        exclude_if=lambda labels: labels == "balanced",
        description="class of each sample: every class equally often, or drawn uniformly (the "
        "official SiT and LightningDiT samplers), which adds class counts to the noise of a "
        "Fréchet distance",
    )
    count: PositiveInt = Field(50_000, description="images per guidance scale")
    seed: int = Field(0, ge=0, description="seed of noise; shared by all cells and scales")
    shift: float = Field(
        1.0,
        gt=0,
        exclude_if=lambda shift: shift == 1,
        description="process flow: s of the times s t / (1 + (s - 1) t) that the solver steps "
        "between; 1 is an even grid, below 1 spends more steps near the noise (LightningDiT's "
        "published samples: 0.3)",
    )
    guidance_interval: tuple[Probability, Probability] = Field(
        (0.0, 1.0),
        exclude_if=lambda interval: tuple(interval) == (0.0, 1.0),
        description="process flow: first and last time at which guidance acts; 0 is noise "
        "(LightningDiT's published samples: [0.1, 1] or [0.125, 1])",
    )
    edm: EDMSampling = Field(EDMSampling(), description="levels of models of process edm")

    @model_validator(mode="after")
    def _whole_steps(self) -> "SamplingSpec":
        if self.solver == "heun" and self.evaluations % 2 == 0:
            raise ValueError(
                f"heun spends 2 x steps - 1 evaluations, an odd number; got {self.evaluations}"
            )
        for scales in (self.guidance, *self.guidance_of.values()):
            if len(set(scales)) != len(scales):
                raise ValueError(f"duplicate guidance scale in {list(scales)}")
            for scale in scales:
                if float(f"{scale:g}") != scale:  # as folders and tables name it
                    raise ValueError(
                        f"guidance {scale!r} has more than six significant digits; write {scale:g}"
                    )
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError(f"guidance_interval {list(self.guidance_interval)} is not in order")
        return self

    @property
    def steps(self) -> int:
        """Steps of the solver."""
        return solver_steps(self.solver, self.evaluations)

    def scales(self, backbone: str) -> tuple[float, ...]:
        """Return the guidance scales of a backbone."""
        return self.guidance_of.get(backbone, self.guidance)

    def of_samples(self, process: Literal["flow", "edm"], guidance: float) -> dict[str, Any]:
        """Return the canonical options that samples at one scale depend on, the seed too."""
        others = PROCESS_OPTIONS["flow" if process == "edm" else "edm"]
        unused = {*others, "guidance_of", *(GUIDANCE_OPTIONS if guidance == 1 else ())}
        options = self.canonical() | {"guidance": guidance}
        return {key: value for key, value in options.items() if key not in unused}
