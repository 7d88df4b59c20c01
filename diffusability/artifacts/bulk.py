"""Latents and samples: which of their files were evicted, and what makes them again."""

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diffusability.errors import ArtifactError
from diffusability.study.commands import snakemake_command
from diffusability.study.stages import RESTORED, RESULTS, STAGES


def cache_folder(stage: str, fingerprint: str) -> Path:
    """Return the folder of bulk files that are kept apart from their artifact."""
    return Path(RESULTS, "cache", stage, fingerprint)


def shard_name(index: int) -> str:
    """Return the name of a file of latents."""
    return f"shard-{index:05d}.safetensors"


def evicted(path: Path, card: Mapping[str, Any]) -> list[str]:
    """Return the names of bulk files of a finished artifact that are gone.

    Args:
        path: directory of the artifact. card: its card.
    """
    if card["stage"] == "latents":
        try:
            stated = json.loads((path / "latents.json").read_text())
            count = -(-stated["images"] // stated["images_per_shard"])
        except (OSError, ValueError, KeyError):
            return []  # damaged, as whoever reads it says
        folder = cache_folder("latents", card["fingerprint"])
        names = [shard_name(index) for index in range(count)]
        return [name for name in names if not (folder / name).exists()]
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
