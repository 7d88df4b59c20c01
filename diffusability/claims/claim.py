"""The papers' claims as data (`diffusability/claims/`): a claim is a region for one statistic."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from diffusability.claims.joint import Kind
from diffusability.errors import StudyError

Patterns = str | list[str]  # shell patterns: any of them, and none of those after ``!``
Value = float | dict[str, float]  # of every metric, or by pattern of a metric


@dataclass(frozen=True)
class Region:
    """The values that agree with a claim, ``low`` to ``high``, and their description."""

    low: float
    high: float
    text: str

    def holds(self, low: Any, high: Any) -> Any:
        """Return whether intervals lie inside, of numbers or of arrays."""
        return (self.low <= low) & (high <= self.high)


class Selector(BaseModel, extra="forbid", frozen=True):
    """The rows of one term of a claim.

    Attributes:
        metric, target, backbone, family: patterns; None: every backbone or family, and as target
            the Fréchet distance of generated images.
        guidance: scale, or "best" of each tokenizer.
        given: metric that a partial correlation holds fixed.
        inside: range of values; what counts is whether the metric lies in it.
        paper: the paper's value: R² of a ``fit``, else r, also of ``shared``, or a share.
        assumed: one for the power where the paper gives words only.
    """

    metric: Patterns
    target: Patterns | None = None
    backbone: Patterns | None = None
    family: Patterns | None = None
    guidance: float | Literal["best"] = 1.0
    given: str | None = None
    inside: tuple[float, float] | None = None
    paper: Value | None = None
    assumed: Value | None = None

    def paper_value(self, metric: str) -> float:
        """Return the paper's value of a metric, else the assumed one; NaN if there is neither."""
        value = self.assumed if self.paper is None else self.paper
        if isinstance(value, Mapping):
            value = next((r for text, r in value.items() if fnmatchcase(metric, text)), None)
        return math.nan if value is None else value


def _region(expect: Any) -> Region:
    match expect:
        case {"at_least": bound, **rest} if not rest:
            return Region(float(bound), math.inf, f"at least {bound}")
        case {"at_most": bound, **rest} if not rest:
            return Region(-math.inf, float(bound), f"at most {bound}")
        case {"between": [low, high], **rest} if not rest and low < high:
            return Region(float(low), float(high), f"between {low} and {high}")
        case {"equals": value, "margin": margin, **rest} if not rest and margin > 0:
            return Region(value - margin, value + margin, f"{value} ± {margin}")
    raise ValueError("must be at_least, at_most, between: [low, high], or equals with margin")


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


Selectors = Annotated[tuple[Selector, ...], BeforeValidator(_listed)]


class Claim(BaseModel, extra="forbid", frozen=True):
    """One claim of a paper.

    Attributes:
        id: short name. section: of the paper. statement: in our words.
        statistic: a kind of ``joint.Kind``, or the name of a row of ``table``.
        region: values that agree with the claim; correlations are sign-oriented: positive means
            that they agree with the metric's declared direction.
        refuted_by: what would refute it.
        plus: rows of each term. minus: of the terms that are subtracted.
        least: every term must agree, instead of their sum.
        read_off: the paper gives its number only in a figure, from which it was read.
        table: the table of findings with the statistic, whose rows have intervals already; empty
            for a joint statistic.
        selector: patterns of the rows of that table, by column.
        exact: the result of an exact calculation, or empty.
        curve: a second statistic of ``table``, the same comparison of whole curves, or empty.
    """

    id: str
    section: str
    statement: str
    statistic: str
    region: Annotated[Region, BeforeValidator(_region)] = Field(alias="expect")
    refuted_by: str
    plus: Selectors = Field(default=(), alias="of")
    minus: Selectors = Field(default=(), alias="against")
    least: bool = Field(default=False, alias="every")
    read_off: bool = False
    table: Literal["", "latent_findings", "fisher_findings"] = ""
    selector: dict[str, Patterns] = {}
    exact: str = ""
    curve: str = ""

    @model_validator(mode="after")
    def _of_one_kind(self) -> "Claim":
        kinds = get_args(Kind)
        if not self.table and self.statistic not in kinds:
            raise ValueError(f"statistic {self.statistic} is not one of {', '.join(kinds)}")
        if bool(self.table) == bool(self.plus) or bool(self.table) != bool(self.selector):
            raise ValueError("needs either `of`, or `table` and `selector`")
        return self

    @property
    def assumed(self) -> bool:
        """Whether the power is computed at a value that is ours, not the paper's."""
        return any(selector.assumed is not None for selector in (*self.plus, *self.minus))


def load_claims(path: str | PathLike[str]) -> list[Claim]:
    """Return the claims of a YAML file, a list of mappings with the keys of ``Claim``.

    Raises:
        StudyError: the file cannot be read, a claim is malformed, or two have one name.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        claims = TypeAdapter(list[Claim]).validate_python(entries)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise StudyError(f"{path}: cannot be read as a list of claims: {error}") from error
    for name, times in Counter(claim.id for claim in claims).items():
        if times > 1:
            raise StudyError(f"{path}: duplicate claim id {name}")
    return claims


def fits(text: str, wanted: Patterns | None) -> bool:
    """Return whether a text matches patterns; None: any."""
    patterns = named(wanted)
    without = [p[1:] for p in patterns if p.startswith("!")]
    within = [p for p in patterns if not p.startswith("!")] or ["*"]
    return any(fnmatchcase(text, p) for p in within) and not any(
        fnmatchcase(text, p) for p in without
    )


def named(wanted: Patterns | None) -> list[str]:
    """Return one pattern or several as a list; none of None."""
    return [wanted] if isinstance(wanted, str) else list(wanted or [])
