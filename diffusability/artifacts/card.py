"""Provenance cards: what an artifact is, how it was made, and the hashes of its files."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from diffusability.artifacts.atomic import sha256
from diffusability.artifacts.bulk import evicted
from diffusability.errors import ArtifactError
from diffusability.study.commands import snakemake_command
from diffusability.study.stages import CARD, STAGES


def rebuild_command(path: Path) -> str:
    """Return the command that rebuilds the artifact at `path`."""
    return snakemake_command("-c1", "-f", str(path / CARD))


def read_card(path: Path) -> dict[str, Any]:
    """Return the card of the artifact in the folder `path`.

    Raises:
        ArtifactError: the card is missing or damaged.
    """
    try:
        card = json.loads((path / CARD).read_text())
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no such artifact, or an unfinished one (it has no {CARD}). "
            f"Make it with: {snakemake_command('-c1', str(path / CARD))}"
        ) from None
    except ValueError as error:
        raise ArtifactError(
            f"{path / CARD}: damaged provenance card ({error}). "
            f"Make the artifact again with: {rebuild_command(path)}"
        ) from None
    return dict(card)


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
    missing = set(STAGES[stage].outputs) - set(card["outputs"])
    wrong = [f"{name} is not on the card" for name in sorted(missing)] + problems(path, card, only)
    if wrong:
        raise ArtifactError(
            f"{path}: {'; '.join(wrong)}. Make it again with: {rebuild_command(path)}"
        )
    return card
