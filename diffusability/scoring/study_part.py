"""The part of a study file that measures some of its tokenizers, without diffusion models."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusability.errors import StudyError
from diffusability.scoring.entries import absolute_paths
from diffusability.study.core.merge import merge
from diffusability.study.reading.yaml_file import read_yaml

OF_MODELS = {  # what only diffusion models have, by section
    "metrics": ("generation",),
    "analysis": ("declared",),
    "select": ("backbones", "seeds", "repeats"),
}


def study_without_models(
    files: Sequence[str], tokenizers: Sequence[str], metrics: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a study file's mapping without diffusion models, for some of its tokenizers.

    What it measures has the fingerprints, and so the numbers, of the whole study. Its paths are
    absolute, as the score runs in its own folder.

    Args:
        files: of the study; later ones override. tokenizers: names; none: those that it selects.
        metrics: groups that are measured; none: those that it selects.

    Raises:
        StudyError: a file cannot be read, or a group of `metrics` is not one of the study's.
    """
    data: dict[str, Any] = {}
    for file in files:
        data = merge(data, read_yaml(file))
    data = {k: v for k, v in data.items() if k not in ("backbones", "sampling", "report")}
    for section, keys in OF_MODELS.items():
        data[section] = _without(data.get(section) or {}, keys)
    for section in ("datasets", "encoders", "bases", "tokenizers"):
        if isinstance(data.get(section), Mapping):
            data[section] = {
                name: absolute_paths(entry) if isinstance(entry, Mapping) else entry
                for name, entry in data[section].items()
            }
    if isinstance(data["metrics"], Mapping):
        data["metrics"] = _measured(data["metrics"], metrics)
    if isinstance(data["select"], Mapping):
        chosen = {"tokenizers": tokenizers, "metrics": metrics}
        named = {key: list(names) for key, names in chosen.items() if names}
        data["select"] = {**data["select"], **named}
    return data | {"name": f"score-{data.get('name', '')}"}


def _measured(declared: Mapping[str, Any], chosen: Sequence[str]) -> dict[str, Any]:
    """Return the metric groups without what is of diffusion models, once `chosen` are there."""
    for name in chosen:
        if name not in declared:
            listed = ", ".join(map(str, declared))
            raise StudyError(f"--metrics {name}: not among those of this study: {listed}")
    of_fisher = ("learned", "reference")
    return {k: _without(v, of_fisher) if k == "fisher" else v for k, v in declared.items()}


def _without(section: Any, keys: Sequence[str]) -> Any:
    """Return a section without some of its keys; what is no mapping is refused later."""
    if not isinstance(section, Mapping):
        return section
    return {key: value for key, value in section.items() if key not in keys}
