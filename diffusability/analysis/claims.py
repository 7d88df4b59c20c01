"""The papers' claims as data: a claim is a region for the value of a statistic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import yaml

from diffusability.errors import StudyError
from diffusability.study.tables import CLAIMS_TABLE, table_named

_TABLES = (*table_named(CLAIMS_TABLE).made_from, "fisher_findings")
# counts that a claim may need: the column whose distinct values are counted
COUNTS = {"backbones": "backbone", "families": "family", "guidance_scales": "guidance"}
_SMALLEST = ("tokenizers", "clusters", "reliability", *COUNTS)


@dataclass(frozen=True)
class Region:
    """The values that agree with a claim, ``low`` to ``high``, and their description."""

    low: float
    high: float
    text: str

    @property
    def holds_zero(self) -> bool:
        """Whether a correlation of zero would agree with the claim."""
        return self.low < 0 < self.high


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        id: short name. section: of the paper. statement: in our words.
        table: the analysis table with the statistic. statistic: its name there.
        selectors: rows of that table; a row is selected if it matches any of them.
        region: values that agree with the claim; correlations are sign-oriented first: positive
            means that they agree with the metric's declared direction.
        refuted_by: what would refute it. smallest: minimum counts for testing it.
        every: whether all selected rows must agree, or any one of them.
        exact: the result of an exact calculation, or empty.
    """

    id: str
    section: str
    statement: str
    table: str
    statistic: str
    selectors: tuple[Mapping[str, Any], ...]
    region: Region
    refuted_by: str
    smallest: Mapping[str, float] = field(default_factory=dict)
    every: bool = True
    exact: str = ""


def load_claims(path: str | PathLike[str]) -> list[Claim]:
    """Read the claims of a YAML file.

    Args:
        path: a list of claims: id, section, statement, table, statistic, selector (one mapping
            of column to shell pattern, list of patterns with ``!`` for exclusion, number or
            ``best``; or a list of such mappings), expect (one of at_least, at_most,
            between: [a, b], equals with margin), refuted_by, and optionally smallest
            (tokenizers, clusters, backbones, families, guidance_scales, reliability),
            rows (all, any), exact (the result of an exact calculation).

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
    required = {"id", "section", "statement", "table", "statistic", "selector", "expect"}
    required |= {"refuted_by"}
    if not isinstance(entry, dict):
        raise StudyError(f"{where}: must be a mapping")
    where = f"{where} ({entry.get('id', 'no id')})"
    optional = {"smallest", "rows", "exact"}
    wrong = sorted(required - set(entry)) or sorted(set(entry) - required - optional)
    if wrong:
        kind = "is missing" if wrong[0] in required else "is not a key of a claim"
        raise StudyError(f"{where}: {wrong[0]} {kind}")
    if entry["table"] not in _TABLES:
        raise StudyError(f"{where}: table {entry['table']} is not one of {', '.join(_TABLES)}")
    selector = entry["selector"]
    smallest = entry.get("smallest") or {}
    unknown = sorted(set(smallest) - set(_SMALLEST))
    if unknown:
        raise StudyError(f"{where}: smallest.{unknown[0]} is not one of {', '.join(_SMALLEST)}")
    if entry.get("rows", "all") not in ("all", "any"):
        raise StudyError(f"{where}: rows must be all or any")
    return Claim(
        id=str(entry["id"]),
        section=str(entry["section"]),
        statement=" ".join(str(entry["statement"]).split()),
        table=entry["table"],
        statistic=str(entry["statistic"]),
        selectors=tuple(selector if isinstance(selector, list) else [selector]),
        region=_region(entry["expect"], where),
        refuted_by=" ".join(str(entry["refuted_by"]).split()),
        smallest=smallest,
        every=entry.get("rows", "all") == "all",
        exact=" ".join(str(entry.get("exact", "")).split()),
    )


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
