"""Read a study file, merge bases and entries, and resolve it to typed data or to clear errors."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusability.errors import StudyError
from diffusability.study.merge import merge
from diffusability.study.resolve import resolve_study
from diffusability.study.study import Study
from diffusability.study.workflow_files import NO_FILE, default_study, shown, workflow_folder


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a duplicate key is an error; plain YAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, list | dict):
                raise StudyError(f"line {line}: a key must be a plain name")
            if key in seen:
                raise StudyError(f"line {line}: duplicate key `{key}` (first on line {seen[key]})")
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        StudyError: the file is missing, is not YAML, repeats a key, or holds no mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(
            f"{path}: no such study file; studies that come with the workflow are in "
            f"{shown(workflow_folder() / 'studies')}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read as text ({error})") from None
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except StudyError as error:
        raise StudyError(f"{path}, {error}") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: this is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise StudyError(f"{path}: a study is a mapping of keys, this file holds {data!r:.60}")
    return data


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
    data = merge(data, overrides or {})
    return resolve_study(
        data, source=", ".join("config" if p == NO_FILE else str(p) for p in paths)
    )
