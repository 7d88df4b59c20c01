"""Contents of results/: finished artifacts, and which artifacts of a plan are missing, and why."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusability.artifacts.bulk import damaged_bulk, evicted
from diffusability.artifacts.card import (
    identity_problems,
    problems,
    read_card,
    rebuild_command,
)
from diffusability.errors import ArtifactError
from diffusability.study.planning.plan import Artifact
from diffusability.study.planning.stages import BULK, CARD, RESULTS, STAGES


def is_done(artifact: Artifact) -> bool:
    """Whether the artifact has a card with its fingerprint; files are not hashed."""
    if not os.path.exists(artifact.card):  # most of a large plan
        return False
    try:
        return bool(read_card(Path(artifact.path))["fingerprint"] == artifact.fingerprint)
    except ArtifactError:
        return False


def evicted_inputs(artifact: Artifact) -> list[Artifact]:
    """Return the artifacts upstream that lack bulk files: every job reads that of its inputs."""
    bulky = [upstream for upstream in artifact.upstream.values() if upstream.stage in BULK]
    return [u for u in bulky if is_done(u) and evicted(Path(u.path), read_card(Path(u.path)))]


def state_of(artifact: Artifact) -> Path:
    """Return the folder of the lock and the checkpoints of an artifact's job."""
    return Path(RESULTS, "state", artifact.stage, artifact.name, artifact.fingerprint)


def finished(stage: str | None = None) -> Iterator[Path]:
    """Yield the folder of every artifact that has a card, of one stage or of all."""
    for name in [stage] if stage else STAGES:
        yield from (file.parent for file in files(Path(RESULTS, name)) if file.name == CARD)


def folder_of(artifact: Artifact) -> Path:
    """Return the folder of an artifact, under its name or under one that it had before.

    What the study calls an encoder or a dataset is in no fingerprint. So nothing is made again when
    one is renamed, and what was made stays in the folder of the earlier name.
    """
    own = Path(artifact.path)
    if os.path.exists(artifact.card):
        return own
    others = (path for path in finished(artifact.stage) if path.name == artifact.fingerprint)
    return next(others, own)


def files(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder in order; those of running jobs may vanish.

    Links to folders are not followed: what is behind them may be another artifact.
    """
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def bytes_of(file: Path) -> int:
    """Return the size of a file, 0 where it is gone or a link that leads nowhere."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def size(path: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(map(bytes_of, files(path)))


def remove_empty_parents(path: Path) -> None:
    """Remove empty folders above `path`, up to the results folder."""
    for parent in path.parents:
        if parent.name in (RESULTS, "state", ""):
            return
        with contextlib.suppress(OSError):
            parent.rmdir()


def damage(path: Path) -> list[str]:
    """Return the problems of an artifact on disk, each with the command that fixes it."""
    try:
        card = read_card(path)
    except ArtifactError as error:
        return [str(error)]
    if wrong := identity_problems(path, card):
        bulk = []  # they are named by the card
    else:
        wrong, bulk = problems(path, card), damaged_bulk(path, card)
    remedy = f"Make it again with: {rebuild_command(path)}"
    return [*(f"{path}: {problem}. {remedy}" for problem in wrong), *bulk]


def lost(plan: Iterable[Artifact]) -> list[str]:
    """Return the artifacts of a plan that are gone although something made from them is there."""
    needed = {up.path: up for a in plan if is_done(a) for up in a.upstream.values()}
    return [
        f"{path}: is missing, although artifacts made from it are there. Make it again with: "
        f"{rebuild_command(Path(path))}"
        for path, artifact in needed.items()
        if not (folder_of(artifact) / CARD).exists()
    ]


def reasons(artifact: Artifact) -> list[str]:
    """Return why an artifact is missing: how it differs from the most similar finished one.

    Only finished artifacts of the same stage and name are compared.
    """
    own = Path(artifact.path)
    paths = sorted(card.parent for card in own.parent.glob(f"*/{CARD}"))
    relatives = [read_card(path) for path in paths if path != own]
    if not relatives:
        return ["no artifact of this name exists yet"]
    wanted = json.loads(artifact.job())
    differences = [(_differences(card, wanted), card["fingerprint"]) for card in relatives]
    fewest, fingerprint = min(differences, key=lambda pair: len(pair[0]))
    return [f"differs from {fingerprint}: {difference}" for difference in fewest]


def _differences(card: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    before, after = _identity(card), _identity(wanted)
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key} {before.get(key)!r} -> {after.get(key)!r}" for key in changed]


def _identity(description: Mapping[str, Any]) -> dict[str, Any]:
    upstream = {role: entry["fingerprint"] for role, entry in description["upstream"].items()}
    flat = {"stage version": description["version"], "seed": description["seed"]}
    flat |= {f"upstream {role}": value for role, value in upstream.items()}
    return flat | _flatten(description["spec"])


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
