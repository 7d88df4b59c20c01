"""Read a study file, merge bases and entries, and resolve it to typed data or to clear errors."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusability.study.core.merge import merge
from diffusability.study.core.problems import check_values
from diffusability.study.core.workflow_files import NO_FILE, default_study
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.reading.yaml_file import read_yaml
from diffusability.study.study import Study


def load_study(
    files: str | Path | Iterable[str | Path] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Study:
    """Return the study of one or more files (later files override) narrowed by `overrides`.

    Args:
        files: paths of YAML study files; by default that of the default study; `none` for a study
            that is all in `overrides`.
        overrides: a mapping laid on top, for example `{"select": {"tokenizers": [...]}}`.

    Raises:
        StudyError: with every problem found, each by key path, reason and nearest valid name.
    """
    paths = [files] if isinstance(files, str | Path) else list(files or [default_study()])
    data: dict[str, Any] = {}
    for path in paths:
        data = merge(data, {} if path == NO_FILE else read_yaml(path))
    source = ", ".join("config" if p == NO_FILE else str(p) for p in paths)
    check_values(overrides or {}, source)
    return resolve_study(merge(data, overrides or {}), source)
