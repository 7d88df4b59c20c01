"""What a metric group declares about itself; all other parts of the project read it from here."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from pydantic import ConfigDict, Field

from diffusability.errors import StudyError
from diffusability.study.core.problems import nearest
from diffusability.study.core.spec import Spec
from diffusability.study.metrics.quantity import Quantity

Split = Literal["train", "val", "all"]
SmallestClass = Literal["refuse", "skip"]
Tensor = Literal["mean", "logvar", "labels", "foreground"]
Further = Literal["alignment", "pixels"]
Needed = Literal["classes", "grid", "images", "network", "decoder"]
LACKING: dict[Needed, str] = {
    "classes": "there are no labels, or one class",
    "grid": "its tokens have no position on a grid",
    "images": "there are no images, only latents",
    "network": "latents on disk have no encoder and decoder",
    "decoder": "features of an encoder have no decoder",
}
UNUSED_MASKS = "masks are not used: tokens have no position on a grid"  # flag
LEFT_OUT = "left out"  # in tables, in the place of a value; the reason stands below
Rank = Literal["headline", "proxy", "further"]
Model = TypeVar("Model", bound="MetricOptions")


@dataclass(frozen=True)
class Passes:
    """Forward passes of networks per image of the split that a group measures.

    Attributes:
        encoder: of the tokenizer. decoder: of the tokenizer. extractor: of the feature extractor.
        pool: split with whose latents every latent is compared; none: with no others.
    """

    encoder: int = 0
    decoder: int = 0
    extractor: int = 0
    pool: Split | None = None


def is_left_out(metric: str, reasons: Mapping[str, str] | None) -> bool:
    """Return whether a metric, or its group, is among what was left out of a latent space."""
    return reasons is not None and (metric in reasons or metric.partition(".")[0] in reasons)


def first_paragraph(schema: dict[str, Any]) -> None:
    """Shorten a model's description for editors; the rest of it is for the page of metrics."""
    schema["description"] = schema.get("description", "").partition("\n\n")[0]


class MetricOptions(Spec):
    """Options of one metric group, the base of all of them."""

    model_config = ConfigDict(json_schema_extra=first_paragraph)

    split: Split = Field("val", description="images whose latents are measured")

    @property
    def encoders(self) -> dict[str, str]:
        """Names of the encoders that the group uses, by role: `extractor` or `lpips`."""
        return {}

    def fingerprinted(self) -> dict[str, Any]:
        """Return the options that the measurements depend on, as plain JSON values."""
        return self.canonical()

    def passes(self) -> Passes | None:
        """Return what a GPU has to compute; None: statistics of latents, on CPU cores."""
        return None


class ClassMetricOptions(MetricOptions):
    """Options of a group that needs a number of images of every class."""

    smallest_class: SmallestClass = Field(
        "refuse",
        exclude_if=lambda choice: choice == "refuse",
        description="classes of too few images: stop before the first training, or leave them out, "
        "counted in a flag",
    )


@dataclass(frozen=True)
class MetricGroup:
    """One group of metrics, measured together on the latents of one tokenizer.

    Attributes:
        name: of the stage, of the key under `metrics` and of all its metrics: `name.metric`.
        options: model of the key's value.
        code: `module:function` that measures. With `reads`, a function of tensors that returns
            measurements; without, a stage's `make(inputs, spec, out)`.
        about: what is measured, in one sentence.
        quantities: what it measures, as the page of metrics says it. Equations and source follow
            the first paragraph of the options' docstring.
        reads: tensors that the function takes, in this order: latent means and log-variances
            (N, C, h, w), labels (N,), foreground (N, h, w) or None for a dataset without masks.
        generator: name of the seeded stream that the function takes as `generator`, if any.
        title: what figures call the group.
        shows: metrics that figures and comparisons show, by short name; a value may be a shell
            pattern. The first represents the group.
        rank: `headline`: the first is in the headline of every report; `proxy`: it is one of the
            predictors that are compared; `further`: it is shown beside them.
        outputs: files of its artifacts beside measurements.json.
        upstream: what it reads beside dataset, tokenizer, latents and its encoders.
        needs: without what it is not measured; see `LACKING`.
        version: raised when the code changes what is measured.
        gpu: whether it needs a GPU.
        memory: megabytes. minutes: time of a job of the smallest study.
    """

    name: str
    options: type[MetricOptions]
    code: str
    about: str
    quantities: tuple[Quantity, ...]
    reads: tuple[Tensor, ...] = ()
    generator: str = ""
    title: str = ""
    shows: Mapping[str, str] = field(default_factory=dict)
    rank: Rank = "further"
    outputs: tuple[str, ...] = ()
    upstream: tuple[Further, ...] = ()
    needs: tuple[Needed, ...] = ()
    version: int = 1
    gpu: bool = False
    memory: int = 16_000
    minutes: int = 120

    def __post_init__(self) -> None:
        """Refuse a declaration that nothing could act on.

        Raises:
            TypeError: naming the group and the field.
        """
        problems = [f"reads {read!r}" for read in self.reads if read not in get_args(Tensor)]
        problems += [f"upstream {r!r}" for r in self.upstream if r not in get_args(Further)]
        problems += [f"needs {need!r}" for need in self.needs if need not in LACKING]
        if not all(self.code.partition(":")):
            problems.append(f"code {self.code!r} is not `module:function`")
        if not self.quantities:
            problems.append("quantities: states no definition, unit and direction")
        if self.shows and not self.title:
            problems.append("shows metrics in figures, but has no title")
        if self.generator and not self.reads:
            problems.append("generator without reads: a stage's function asks for its own")
        if problems:
            raise TypeError(f"metric group `{self.name}`: {'; '.join(problems)}")


class MetricGroups(Mapping[str, MetricGroup]):
    """The declared groups by name, in the order of their declaration."""

    def __init__(self) -> None:
        """Start empty."""
        self._groups: dict[str, MetricGroup] = {}

    def add(self, name: str, **declared: Any) -> Callable[[type[Model]], type[Model]]:
        """Return a class decorator that declares a group under its options model.

        Args:
            name: of the group.
            declared: the other fields of `MetricGroup`.

        Raises:
            TypeError: the declaration is incomplete, or the name is taken.
        """

        def declare(model: type[Model]) -> type[Model]:
            if name in self._groups:
                raise TypeError(f"metric group `{name}` is declared already")
            self._groups[name] = MetricGroup(name=name, options=model, **declared)
            return model

        return declare

    def __getitem__(self, name: str) -> MetricGroup:
        """Return a group.

        Raises:
            StudyError: none has this name; the message names the nearest.
        """
        if name not in self._groups:
            raise StudyError(f"unknown metric group `{name}` ({nearest(name, self._groups)})")
        return self._groups[name]

    def __contains__(self, name: object) -> bool:
        """Return whether a name is declared."""
        return name in self._groups

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._groups)

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self._groups)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a model with one key per group, as `create_model` takes them.

        A group is measured in studies that have its key.
        """
        return {
            name: (group.options | None, Field(None, description="none: not measured"))
            for name, group in self._groups.items()
        }

    def representatives(self, *ranks: Rank) -> dict[str, str]:
        """Return the first shown metric of each group of the ranks, by short name."""
        shown = [group for group in self._groups.values() if group.shows and group.rank in ranks]
        return dict(next(iter(group.shows.items())) for group in shown)
