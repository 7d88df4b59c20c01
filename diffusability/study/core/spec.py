"""The base of every typed piece of a study, and the field types that they share."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from diffusability.study.core.fingerprint import canonical_json

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
# sizes of networks: a plan counts their operations, which takes time and memory per layer
Blocks = Annotated[int, Field(gt=0, le=1000)]
Multiplier = Annotated[int, Field(gt=0, le=256)]
Width = Annotated[int, Field(gt=0, le=65_536)]
Precision = Literal["fp32", "bf16"]
CHECKPOINT_SECONDS = 300.0  # between two checkpoints of a training
LARGEST = 2**63 - 1  # integer, which every library takes
TIME_BUDGET = 0.9  # of a job's minutes, after which a training saves its state and ends
# path of something on this machine: never part of a fingerprint, so it may differ between two
# machines that share results
ON_DISK = "path"
COMPUTED: JsonDict = {"computed": True}  # follows from the other keys; no key of the study file
Place = Annotated[str, Field(min_length=1, exclude=True), ON_DISK]
OptionalPlace = Annotated[str | None, Field(exclude=True), ON_DISK]


@dataclass(frozen=True)
class Need:
    """A file or folder that a study reads and no rule makes.

    Attributes:
        what: what it is, for messages, e.g. `weights of dinov2-b`.
        path: where it is looked for.
        remedy: how to get it, as a sentence.
        lacking: what is wrong with the file where it exists and does not serve.
    """

    what: str
    path: Path
    remedy: str
    lacking: str | None = None

    @property
    def there(self) -> bool:
        """Whether it exists and serves."""
        return self.lacking is None and os.path.exists(self.path)  # also of a path too long

    def __str__(self) -> str:
        """Return one sentence of what is missing, where it was looked for and how to get it."""
        return f"{self.what}: {self.lacking or f'not at {self.path}'}; {self.remedy}"


@dataclass(frozen=True)
class NamedContent:
    """Files that a study identifies by a name of its own instead of by their content.

    Attributes:
        kind: what they are: `images` or `autoencoder files`.
        name: as the study gives it.
        digests: SHA-256 of their parts, where these are known.
        place: where they are.
    """

    kind: str
    name: str
    digests: Mapping[str, str | None]
    place: str


def is_computed(field: FieldInfo) -> bool:
    """Return whether a field follows from others, and is no key of the study file."""
    return isinstance(field.json_schema_extra, dict) and bool(
        field.json_schema_extra.get("computed")
    )


def is_none(value: object) -> bool:
    """Return whether an option that was added later is left out (see `Spec`)."""
    return value is None


def _takes(kind: Any, types: tuple[Any, ...]) -> bool:
    """Return whether an annotation contains one of some types, or a literal of one."""
    if kind in types or (isinstance(kind, bool) and bool in types):
        return True
    return any(_takes(part, types) for part in get_args(kind))


def _without_truth(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return [_without_truth(part) for part in value] if isinstance(value, list) else value


def _literal_numbers(kind: Any) -> set[int]:
    """Return the whole numbers that an annotation names as literals."""
    if type(kind) is int:
        return {kind}
    return {number for part in get_args(kind) for number in _literal_numbers(part)}


def _chosen_number(value: Any, numbers: set[int]) -> Any:
    """Return the number that a text says, in a list too, where it is one of some numbers."""
    if isinstance(value, list):
        return [_chosen_number(part, numbers) for part in value]
    return int(value) if isinstance(value, str) and value in map(str, numbers) else value


def is_zero(value: object) -> bool:
    """Return whether a weight or a count that was added later is left out (see `Spec`)."""
    return value == 0


class Spec(BaseModel):
    """A frozen piece of a study: unknown keys are errors, defaults live in the fields.

    What is hashed is `canonical()`. Two kinds of fields stay out of it:
    - what belongs to a machine (`exclude=True`) is a path on it, or an option of execution, which
      says how the work is done and not what comes out in exact arithmetic; a job carries it
      beside its spec (`local()`);
    - a field that joined its spec when artifacts of it existed (`exclude_if`) stays out while it
      has its default, which means what was done before; those artifacts keep their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, data: Any) -> Any:
        """Make true and false text where a number is meant: Python would count them as 1 and 0."""
        if not isinstance(data, Mapping):
            return data
        numbers = [k for k, f in cls.model_fields.items() if not _takes(f.annotation, (bool, Any))]
        return {**data, **{key: _without_truth(data[key]) for key in numbers if key in data}}

    @model_validator(mode="before")
    @classmethod
    def _text_for_a_number(cls, data: Any) -> Any:
        """Take a text for a literal number, as for any other: `snakemake --config` gives texts."""
        if not isinstance(data, Mapping):
            return data
        given = {key: field for key, field in cls.model_fields.items() if key in data}
        numbers = {key: _literal_numbers(field.annotation) for key, field in given.items()}
        return {**data, **{k: _chosen_number(data[k], few) for k, few in numbers.items() if few}}

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        """Refuse integers of more than 64 bits."""
        parts = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(part, int) and abs(part) > LARGEST for part in parts):
            raise ValueError(f"an integer above {LARGEST} is too large")
        return value

    def canonical(self) -> dict[str, Any]:
        """Return the resolved values, defaults included, as plain JSON types."""
        return self.model_dump(mode="json")

    def local(self) -> dict[str, Any]:
        """Return what `canonical` leaves to the machine, nested as in the entry."""
        options: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.exclude:
                options[name] = value
            elif isinstance(value, Spec) and (inner := value.local()):
                options[name] = inner
        return options

    @classmethod
    def place_keys(cls) -> tuple[str, ...]:
        """Return the keys whose values are paths on this machine."""
        return tuple(name for name, field in cls.model_fields.items() if ON_DISK in field.metadata)

    def needs(self) -> tuple[Need, ...]:
        """Return the files that have to be there before the first job starts."""
        return ()

    def named_contents(self) -> tuple[NamedContent, ...]:
        """Return the files that a name of the study's own stands for in the fingerprint."""
        return ()

    def packages(self) -> tuple[str, ...]:
        """Return the Python packages, beyond the core's, that its stages import."""
        return ()

    def canonical_json(self) -> str:
        """Return the resolved values as one text for one meaning."""
        return canonical_json(self.canonical())


class TrainSpec(Spec):
    """How one network is optimised.

    Every field changes the weights that come out, except for the options of execution at the end:
    they cut or fuse the same sums, so that the weights agree up to the rounding of a sum's order.
    Precision is none of them: bf16 computes another function.
    """

    steps: PositiveInt = Field(description="optimizer steps")
    batch: PositiveInt = Field(64, description="images per optimizer step, over all devices")
    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    betas: tuple[Probability, Probability] = Field((0.9, 0.999), description="Adam moments")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled (AdamW) decay")
    warmup: NonNegativeInt = Field(0, description="steps of linear learning-rate warm-up")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="learning rate after the warm-up; cosine ends at zero"
    )
    clip: float | None = Field(None, gt=0, description="largest gradient norm; none: no clipping")
    ema: float | None = Field(
        None, ge=0, lt=1, description="decay of the averaged weights; none: the last weights"
    )
    ema_warmup: bool = Field(
        True,
        exclude_if=lambda warmup: warmup is True,
        description="average fewer steps at first: the decay of update k is at most "
        "(1 + k) / (10 + k); false: the decay is constant, as in SiT and LightningDiT",
    )
    precision: Precision = Field("fp32", description="autocast type of the forward pass")
    accumulation: PositiveInt = Field(
        1,
        exclude=True,
        description="parts into which each process cuts its share of a batch, one after the other "
        "in memory; execution, in no fingerprint",
    )
    compile: bool = Field(
        False,
        exclude=True,
        description="torch.compile the network's forward pass; execution, in no fingerprint",
    )

    activation_checkpointing: bool = Field(
        False,
        exclude=True,
        description="keep only the inputs of the network's blocks and compute these again in the "
        "backward pass: less memory, about a third more time; execution, in no fingerprint",
    )

    @model_validator(mode="after")
    def _whole_parts(self) -> "TrainSpec":
        if self.batch % self.accumulation:
            raise ValueError(
                f"accumulation {self.accumulation} does not divide the batch of {self.batch}"
            )
        return self
