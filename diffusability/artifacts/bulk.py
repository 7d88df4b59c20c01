"""Latents and samples: which of their files were evicted, and what makes them again."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diffusability.artifacts.hashed_tensors import altered_tensors, read_header
from diffusability.errors import ArtifactError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.planning.stages import RESTORED, RESULTS, STAGES


def cache_folder(stage: str, fingerprint: str) -> Path:
    """Return the folder of bulk files that are kept apart from their artifact."""
    return Path(RESULTS, "cache", stage, fingerprint)


def shard_name(index: int) -> str:
    """Return the name of a file of latents."""
    return f"shard-{index:05d}.safetensors"


def shard_metadata(fingerprint: str, images: tuple[int, int]) -> dict[str, str]:
    """Return what a file of latents says of itself: whose latents, and of which images.

    Args:
        fingerprint: of the latents artifact.
        images: the first image, and the one after the last.
    """
    return {"fingerprint": fingerprint, "images": f"{images[0]}:{images[1]}"}


def shard_problem(path: Path, metadata: Mapping[str, str], hashed: bool) -> str | None:
    """Return why a file of latents cannot be used, as a phrase; None if it can.

    Args:
        path: of the file.
        metadata: what it has to say of itself.
        hashed: also read all tensors and compare their hashes.
    """
    try:
        header = read_header(path)
        if header.metadata != metadata:
            whose = header.metadata.get("fingerprint", "nothing that says what it is")
            which = header.metadata.get("images", "?")
            return (
                f"holds images {which} of {whose} instead of {metadata['images']} of "
                f"{metadata['fingerprint']}; it was moved or copied by hand"
            )
        altered = altered_tensors(path, header) if hashed else []
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError as error:
        return str(error)
    return f"was altered ({', '.join(altered)}: other bytes than were written)" if altered else None


def damaged_bulk(path: Path, card: Mapping[str, Any]) -> list[str]:
    """Return the problems of the cached latents of an artifact, each with its remedy.

    Every shard that was not evicted is read and hashed. Other bulk files are outputs on the card.

    Args:
        path: directory of the artifact. card: its card.
    """
    if card["stage"] != "latents":
        return []
    fingerprint = card["fingerprint"]
    gone = evicted(path, card)
    found = []
    for name, images in _shards(path):
        if name in gone:
            continue
        file = cache_folder("latents", fingerprint) / name
        problem = shard_problem(file, shard_metadata(fingerprint, images), hashed=True)
        if problem:
            found.append(f"{file}: {problem}. Encode it again with: {restore_command(path)}")
    return found


def _shards(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name and images of every file of the latents artifact at `path`."""
    try:
        stated = json.loads((path / "latents.json").read_text())
        images, per_shard = int(stated["images"]), int(stated["images_per_shard"])
        starts = range(0, images, per_shard)
    except (OSError, ValueError, KeyError, TypeError):
        return  # damaged, as whoever reads it says
    for index, start in enumerate(starts):
        yield shard_name(index), (start, min(start + per_shard, images))


def evicted(path: Path, card: Mapping[str, Any]) -> list[str]:
    """Return the names of bulk files of a finished artifact that are gone.

    Args:
        path: directory of the artifact. card: its card.
    """
    if card["stage"] == "latents":
        folder = cache_folder("latents", card["fingerprint"])
        return [name for name, _ in _shards(path) if not (folder / name).exists()]
    bulk = [name for name in card["outputs"] if fnmatch(name, STAGES[card["stage"]].bulk)]
    return [name for name in bulk if not (path / name).exists()]


def marker(path: Path) -> Path:
    """Return the file that the job leaves that restored the bulk of the artifact at `path`."""
    return path / RESTORED


def restore_command(path: Path) -> str:
    """Return the command that makes the evicted files of the artifact at `path` again."""
    return snakemake_command("-c1", "-f", str(marker(path)))


def check_bulk(path: Path, missing: int, files: int) -> None:
    """Refuse to read an artifact of which `missing` of `files` bulk files are not usable.

    Raises:
        ArtifactError: with the command that restores them.
    """
    if missing:
        raise ArtifactError(
            f"{path}: {missing} of its {files} bulk files were evicted or altered; restore them "
            f"with: {restore_command(path)}"
        )
