"""Diffusion backbones and the sampling that follows their training."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from diffusability.study.spec import Probability, Spec, TrainSpec

# width, depth, heads of the published sizes (DiT, Table 1; SiT and LightningDiT share them)
PUBLISHED_SIZES = {
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}


class TransformerBackbone(Spec):
    """A flow-matching transformer on latents; `size` fills width, depth and heads."""

    width: PositiveInt = Field(description="channels of a token")
    depth: PositiveInt = Field(description="blocks")
    heads: PositiveInt = Field(description="attention heads; divides width")
    patch: PositiveInt = Field(1, description="latent cells per token, along one side")
    class_dropout: Probability = Field(0.1, description="share of labels replaced by null")
    train: TrainSpec
    gpus: PositiveInt = Field(
        1,
        exclude=True,
        description="processes that share every batch, one GPU each; execution, in no fingerprint",
    )

    @model_validator(mode="before")
    @classmethod
    def _published_size(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "size" not in data:
            return data
        data = dict(data)
        size = data.pop("size")
        if size not in PUBLISHED_SIZES:
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

    @model_validator(mode="after")
    def _whole_shares(self) -> "TransformerBackbone":
        parts = self.gpus * self.train.accumulation
        if self.train.batch % parts:
            raise ValueError(
                f"train.batch {self.train.batch} cannot be cut into gpus x train.accumulation "
                f"= {parts} equal parts"
            )
        return self


class SiTBackbone(TransformerBackbone):
    """SiT: uniform time, mean squared error."""

    arch: Literal["sit"]
    time: Literal["uniform", "logit-normal"] = "uniform"
    cosine: NonNegativeFloat = Field(0.0, description="weight of the directional loss")


class LightningDiTBackbone(TransformerBackbone):
    """LightningDiT: logit-normal time, mean squared error plus cosine."""

    arch: Literal["lightningdit"]
    time: Literal["uniform", "logit-normal"] = "logit-normal"
    cosine: NonNegativeFloat = Field(1.0, description="weight of the directional loss")


BackboneSpec = Annotated[SiTBackbone | LightningDiTBackbone, Field(discriminator="arch")]


class SamplingSpec(Spec):
    """How images are generated, the same for every cell of the study."""

    solver: Literal["euler", "heun"] = "euler"
    evaluations: PositiveInt = Field(
        50, description="function evaluations of the ODE solver, exactly"
    )
    guidance: tuple[Annotated[float, Field(ge=1.0)], ...] = Field(
        (1.0,), min_length=1, description="classifier-free guidance scales; 1 is none"
    )
    count: PositiveInt = Field(50_000, description="images per guidance scale")
    seed: int = Field(0, ge=0, description="seed of noise; shared by all cells and scales")

    @model_validator(mode="after")
    def _whole_steps(self) -> "SamplingSpec":
        if self.solver == "heun" and self.evaluations % 2 == 0:
            raise ValueError(
                f"heun spends 2 x steps - 1 evaluations, an odd number; got {self.evaluations}"
            )
        if len(set(self.guidance)) != len(self.guidance):
            raise ValueError("a guidance scale stands twice")
        return self
