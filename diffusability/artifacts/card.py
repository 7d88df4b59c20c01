"""Provenance cards: what an artifact is, how it was made, and the hashes of its files."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # that of Python 3.11 has no configuration

from diffusability.artifacts.atomic import sha256
from diffusability.artifacts.bulk import evicted
from diffusability.errors import ArtifactError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.core.fingerprint import fingerprint as fingerprint_of
from diffusability.study.planning.stages import CARD, RESULTS, STAGES

LATEST = 4e9  # seconds since 1970: later times are mistakes
_STRICT = ConfigDict(strict=True, extra="allow")
Seconds = Annotated[float, Field(ge=0, le=LATEST, allow_inf_nan=False)]


class Output(TypedDict):
    """Hash and size of a file."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    sha256: str
    bytes: int


class Upstream(TypedDict):
    """An artifact that another was made from."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    stage: str
    fingerprint: str
    path: str


class Machine(TypedDict):
    """Where an artifact was made, as `artifacts/machine.py` describes it."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    packages: dict[str, str | None]
    system: str
    device: str
    commit: str | None


class Card(TypedDict):
    """What a provenance card holds."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    stage: str
    version: int
    name: str
    fingerprint: str
    spec: dict[str, Any]
    seed: int
    upstream: dict[str, Upstream]
    local: dict[str, Any]
    outputs: dict[str, Output]
    machine: Machine
    started: Seconds
    seconds: Seconds
    attempts: int
    peak_memory_bytes: int


_CARD = TypeAdapter(Card)


def rebuild_command(path: Path) -> str:
    """Return the command that rebuilds the artifact at `path`."""
    return snakemake_command("-c1", "-f", str(path / CARD))


def read_card(path: Path) -> dict[str, Any]:
    """Return the card of the artifact in the folder `path`.

    Raises:
        ArtifactError: the card is missing or damaged.
    """
    try:
        text = (path / CARD).read_text()
        card = json.loads(text, parse_float=_finite, parse_constant=_finite)
        _CARD.validate_python(card)
        if card["stage"] not in STAGES:
            raise ValueError(f"stage: no stage `{card['stage']:.40}`")
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no such artifact, or an unfinished one (it has no {CARD}). "
            f"Make it with: {snakemake_command('-c1', str(path / CARD))}"
        ) from None
    except (ValueError, RecursionError, OSError) as error:
        raise ArtifactError(
            f"{path / CARD}: damaged provenance card ({_reason(error)}). "
            f"Make the artifact again with: {rebuild_command(path)}"
        ) from None
    return dict(card)


def _finite(text: str) -> float:
    """Return a number; JSON has no NaN and no infinity, but Python reads them."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.20}")
    return number


def _reason(error: Exception) -> str:
    """Return one line of what is wrong with a card."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return str(error) if isinstance(error, ValueError) else error.__class__.__name__


def identity_problems(path: Path, card: Mapping[str, Any]) -> list[str]:
    """Return how a card contradicts itself or the folder that it is in.

    The fingerprint is computed again from what the card says, so none of it can be edited.
    """
    roles = {role: entry["fingerprint"] for role, entry in card["upstream"].items()}
    own = fingerprint_of(card["stage"], card["version"], card["spec"], card["seed"], roles)
    found = []
    if own != card["fingerprint"]:
        found.append("its card was edited: the fingerprint does not match the specification")
    folder = Path(card["stage"], card["name"], card["fingerprint"]).parts
    if path.parts[-len(folder) :] != folder:
        found.append(f"its card is that of {'/'.join(folder)}")
    for role, entry in card["upstream"].items():
        parts = Path(entry["path"]).parts
        whole = (RESULTS, entry["stage"], entry["fingerprint"])
        if ".." in parts or (*parts[:2], *parts[-1:]) != whole:
            found.append(f"its card was edited: its {role} cannot be {entry['path']:.80}")
    missing = set(STAGES[card["stage"]].outputs) - set(card["outputs"])
    found += [f"{name} is not on the card" for name in sorted(missing)]
    strange = [name for name in card["outputs"] if Path(name).is_absolute() or ".." in name]
    return found + [f"its card was edited: {name:.80} is no output" for name in strange]


def problems(path: Path, card: dict[str, Any], only: Collection[str] = ()) -> list[str]:
    """Return the problems of an artifact's files: missing (not evicted), truncated or altered.

    Args:
        path: directory of the artifact. card: its card. only: files to look at; empty means all.
    """
    found = []
    gone = evicted(path, card) if STAGES[card["stage"]].bulk else []
    for name, entry in card["outputs"].items():
        if name in gone or (only and name not in only):
            continue
        file = path / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file.stat().st_size != entry["bytes"]:
            found.append(f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}")
        elif sha256(file) != entry["sha256"]:
            found.append(f"{name} was altered (its SHA-256 differs)")
    return found


def verified(
    path: Path, stage: str, fingerprint: str, only: Collection[str] = ()
) -> dict[str, Any]:
    """Return the card of an artifact after verifying stage, fingerprint and files.

    Args:
        path: directory of the artifact. stage: its stage. fingerprint: its fingerprint.
        only: files to hash, if the caller reads only these; empty means all.

    Raises:
        ArtifactError: another stage or fingerprint, or files that differ from the card.
    """
    card = read_card(path)
    if (card.get("stage"), card.get("fingerprint")) != (stage, fingerprint):
        raise ArtifactError(
            f"{path}: holds {card.get('stage')} {card.get('fingerprint')}, expected {stage} "
            f"{fingerprint}. It was copied or renamed by hand; remove it and make it again with: "
            f"{rebuild_command(path)}"
        )
    wrong = identity_problems(path, card) or problems(path, card, only)
    if wrong:
        raise ArtifactError(
            f"{path}: {'; '.join(wrong)}. Make it again with: {rebuild_command(path)}"
        )
    return card
