"""The papers' claims as data: a claim is a region for one statistic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike
from typing import Any, get_args

import yaml

from diffusability.analysis.joint import Kind
from diffusability.errors import StudyError

KINDS = get_args(Kind)
_SELECTOR = (
    *("metric", "target", "backbone", "family", "guidance"),
    *("given", "paper", "assumed", "inside"),
)
_FINDINGS = ("latent_findings", "fisher_findings")  # tables whose rows have intervals already
_TEXTS = ("id", "section", "statement", "statistic", "refuted_by", "table", "exact", "curve")
_EVERY = ("id", "section", "statement", "statistic", "expect", "refuted_by")
# required and optional keys of the two kinds of claims
_JOINT = ((*_EVERY, "of"), ("against", "every", "read_off"))
_ON_FINDINGS = ((*_EVERY, "table", "selector"), ("exact", "curve"))


@dataclass(frozen=True)
class Region:
    """The values that agree with a claim, ``low`` to ``high``, and their description."""

    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes:
        id: short name. section: of the paper. statement: in our words.
        statistic: a kind of ``joint.Kind``, or the name of a row of ``table``.
        plus: selectors of the rows of each term. minus: of the terms that are subtracted.
        least: every term must agree, instead of their sum.
        table: the table of findings with the statistic; empty for a joint statistic.
        selector: rows of that table.
        region: values that agree with the claim; correlations are sign-oriented: positive means
            that they agree with the metric's declared direction.
        read_off: the paper gives its number only in a figure, from which it was read.
        refuted_by: what would refute it. exact: the result of an exact calculation, or empty.
        curve: a second statistic of ``table``, the same comparison of whole curves; empty if there
            is none.
    """

    id: str
    section: str
    statement: str
    statistic: str
    region: Region
    refuted_by: str
    plus: tuple[Mapping[str, Any], ...] = ()
    minus: tuple[Mapping[str, Any], ...] = ()
    least: bool = False
    table: str = ""
    selector: Mapping[str, Any] | None = None
    read_off: bool = False
    exact: str = ""
    curve: str = ""

    @property
    def assumed(self) -> bool:
        """Whether the power is computed at a value that is ours, not the paper's."""
        return any("assumed" in selector for selector in (*self.plus, *self.minus))


def load_claims(path: str | PathLike[str]) -> list[Claim]:
    """Load the claims of a YAML file.

    Args:
        path: a list of mappings. All have id, section, statement, statistic, expect (one of
            at_least, at_most, between: [a, b], equals with margin) and refuted_by. A joint claim
            has ``of`` and optionally ``against`` (a selector or a list of them), ``every: true``
            and ``read_off: true``; a selector maps metric, target, backbone and family to shell
            patterns (one, or a list with ``!`` for exclusion), guidance to a number or ``best``,
            ``given`` to a metric, ``inside`` to a range, ``paper`` to the paper's value (a number,
            or by metric), ``assumed`` to one for the power where the paper gives words only. A
            claim on findings has ``table``, ``selector`` and optionally ``exact`` and ``curve``, a
            statistic for the second reading.

    Returns:
        The claims in the order of the file.

    Raises:
        StudyError: the file cannot be read, or a claim is malformed; names claim and key.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            entries = yaml.safe_load(stream)
    except (OSError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(entries, list):
        raise StudyError(f"{path}: must be a list of claims")
    claims = [_claim(entry, f"{path}, claim {n}") for n, entry in enumerate(entries, start=1)]
    names = [claim.id for claim in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StudyError(f"{path}: duplicate claim id {twice[0]}")
    return claims


def _claim(entry: Any, where: str) -> Claim:
    if not isinstance(entry, dict):
        raise StudyError(f"{where}: must be a mapping")
    where = f"{where} ({entry.get('id', 'no id')})"
    kind = _ON_FINDINGS if "table" in entry else _JOINT
    required, optional = kind
    wrong = sorted(set(required) - set(entry)) or sorted(set(entry) - {*required, *optional})
    if wrong:
        problem = "is missing" if wrong[0] in required else "is not a key of a claim"
        raise StudyError(f"{where}: {wrong[0]} {problem}")
    name, known = ("table", _FINDINGS) if kind is _ON_FINDINGS else ("statistic", KINDS)
    if entry[name] not in known:
        raise StudyError(f"{where}: {name} {entry[name]} is not one of {', '.join(known)}")
    given = {key: " ".join(str(entry[key]).split()) for key in _TEXTS if key in entry}
    return Claim(
        **given,
        region=_region(entry["expect"], where),
        plus=_selectors(entry.get("of", []), where),
        minus=_selectors(entry.get("against", []), where),
        least=bool(entry.get("every", False)),
        read_off=bool(entry.get("read_off", False)),
        selector=entry.get("selector"),
    )


def _selectors(given: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    selectors = tuple(given if isinstance(given, list) else [given])
    for selector in selectors:
        unknown = sorted(set(selector) - set(_SELECTOR))
        if unknown:
            raise StudyError(f"{where}: {unknown[0]} is not one of {', '.join(_SELECTOR)}")
        if "metric" not in selector:
            raise StudyError(f"{where}: a selector without metric")
    return selectors


def paper_value(selector: Mapping[str, Any], metric: str) -> float:
    """Return the paper's value of a metric, else the assumed one; NaN if there is neither."""
    value = selector.get("paper", selector.get("assumed", math.nan))
    if isinstance(value, Mapping):
        value = next((r for text, r in value.items() if fnmatchcase(metric, text)), math.nan)
    return float(value)


def fits(text: str, wanted: object) -> bool:
    """Return whether a text matches a shell pattern, or a list of them with ``!``; None: any."""
    patterns = named(wanted)
    without = [p[1:] for p in patterns if p.startswith("!")]
    within = [p for p in patterns if not p.startswith("!")] or ["*"]
    return any(fnmatchcase(text, p) for p in within) and not any(
        fnmatchcase(text, p) for p in without
    )


def named(wanted: object) -> list[str]:
    """Return one pattern or several as a list; none of None."""
    if isinstance(wanted, str):
        return [wanted]
    return list(wanted) if isinstance(wanted, Sequence) else []


def _region(expect: Any, where: str) -> Region:
    try:
        match expect:
            case {"at_least": bound, **rest} if not rest:
                return Region(float(bound), math.inf, f"at least {bound}")
            case {"at_most": bound, **rest} if not rest:
                return Region(-math.inf, float(bound), f"at most {bound}")
            case {"between": [low, high], **rest} if not rest and low < high:
                return Region(float(low), float(high), f"between {low} and {high}")
            case {"equals": value, "margin": margin, **rest} if not rest and margin > 0:
                return Region(value - margin, value + margin, f"{value} ± {margin}")
    except (TypeError, ValueError):
        pass
    raise StudyError(
        f"{where}: expect must be at_least, at_most, between: [low, high], or equals with margin"
    )
