"""How images are sampled from diffusion models: solver, guidance, noise levels."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from diffusability.study.core.spec import Probability, Spec, is_none


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
