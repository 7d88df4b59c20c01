"""What can be removed: artifacts that no study names, evictable latents, abandoned state."""

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusability.artifacts.inventory import finished, size
from diffusability.artifacts.lock import exclusive
from diffusability.errors import ArtifactBusyError
from diffusability.study.stages import CARD, RESULTS


@dataclass(frozen=True)
class Garbage:
    """A folder that can go, why, and how large it is in bytes."""

    path: Path
    reason: str
    bytes: int


def find_garbage(used: Collection[str], latents: bool) -> list[Garbage]:
    """Return what can be removed without losing anything that a study names.

    Args:
        used: fingerprints of every artifact of every study that is to be kept.
        latents: also list the shards of latents that are used; they are encoded again on demand.
    """
    found = [
        Garbage(path, "no study names it", size(path))
        for path in finished()
        if path.name not in used
    ]
    found += [
        Garbage(path, "latents, encoded again on demand", size(path))
        for path in _folders(Path(RESULTS, "cache", "latents"))
        if latents or path.name not in used
    ]
    found += [
        Garbage(path, "state of a run that no study names", size(path))
        for path in _states()
        if path.name not in used
    ]
    return found


def remove(garbage: Garbage) -> bool:
    """Remove the folder unless a process is writing it; return whether it is gone."""
    state = garbage.path / "lock"
    try:
        with exclusive(state, str(garbage.path)):
            # the card goes first: an artifact that is half removed must not look finished
            (garbage.path / CARD).unlink(missing_ok=True)
            shutil.rmtree(garbage.path)
    except ArtifactBusyError:
        return False
    return True


def _folders(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(child for child in path.iterdir() if child.is_dir())


def _states() -> Iterator[Path]:
    yield from sorted(counter.parent for counter in Path(RESULTS, "state").rglob("attempts"))
