"""Which studies use a results folder: those that ran there, and those whose files are present."""

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusability.artifacts.atomic import write_json
from diffusability.errors import DiffusabilityError, StudyError
from diffusability.study.core.fingerprint import canonical_json
from diffusability.study.core.problems import nearest
from diffusability.study.core.workflow_files import (
    NO_FILE,
    default_study,
    shown,
    toy_study,
    workflow_folder,
)
from diffusability.study.fisher_toy import FISHER_TOY, toy_plan
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import RESULTS
from diffusability.study.reading.load import load_study

RECORDS = Path(RESULTS, "studies")


@dataclass(frozen=True)
class Named:
    """A study that names artifacts.

    Attributes:
        study: its name.
        source: study file or record, for messages.
        artifacts: paths of those that it names.
        record: the file that recorded its run; None for a study whose file is present.
    """

    study: str
    source: str
    artifacts: frozenset[str]
    record: Path | None = None


@dataclass
class Studies:
    """All studies that use a results folder.

    Attributes:
        named: the studies. doubts: what could not be found out, one sentence each.
    """

    named: list[Named] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def artifacts(self) -> set[str]:
        """The paths of the artifacts that any of the studies names."""
        return {path for study in self.named for path in study.artifacts}


def record_study(plan: Plan, files: Sequence[str], overrides: Mapping[str, Any]) -> Path:
    """Write that a study runs in this results folder, and return the record.

    The same study files with the same overrides have one record in a working copy, which states
    the last run; a part of a study (`--config select...`) has its own, so it lets go of nothing.
    Copies that share a results folder have records of their own, because their files of the same
    name may differ.
    """
    folder = Path.cwd()
    copy = [str(folder), str(workflow_folder().resolve())]
    command = [list(files), {} if NO_FILE in files else dict(overrides), *copy]
    key = hashlib.sha256(canonical_json(command).encode()).hexdigest()[:8]
    path = RECORDS / f"{plan.study.name}-{key}.json"
    content = {
        "study": plan.study.name,
        "folder": str(folder),
        "files": list(files),
        "overrides": dict(overrides),
        "started": time.time(),
        "artifacts": [artifact.path for artifact in plan],
        "resolved": plan.study.model_dump(mode="json"),
    }
    write_json(path, content)
    return path


def find_studies(
    files: Sequence[str], overrides: Mapping[str, Any], forget: Collection[str] = ()
) -> Studies:
    """Return the studies that ran in this results folder or whose files are present.

    Args:
        files: of one study, each laid over those before it. overrides: laid on top of them.
        forget: names of studies to leave out.

    Raises:
        StudyError: the given files are no study, or no study has a name in `forget`.
    """
    found = Studies()
    if files:
        plan = Plan(load_study(files, overrides))
        found.named.append(_named(plan.study.name, " ".join(files), plan))
    for file in _present(files if len(files) == 1 and not overrides else ()):
        try:
            plan = Plan(load_study(file))
        except DiffusabilityError as error:
            found.doubts.append(f"{file}: its artifacts are unknown ({_first_line(error)})")
            continue
        found.named.append(_named(plan.study.name, file, plan))
    try:
        found.named.append(_named(FISHER_TOY, toy_study(), toy_plan(toy_study())))
    except DiffusabilityError as error:
        found.doubts.append(f"{toy_study()}: its artifacts are unknown ({_first_line(error)})")
    for path in sorted(RECORDS.glob("*.json")):
        try:
            found.named.append(_recorded(path))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            found.doubts.append(f"{path}: the record of a study cannot be read ({error!s:.80})")
    doubtful = _unrecorded(found)
    known = {study.study for study in found.named} | set(doubtful)
    for name in forget:
        if name not in known:
            raise StudyError(f"--forget {name}: no study of that name ({nearest(name, known)})")
    found.named = [study for study in found.named if study.study not in forget]
    if not RECORDS.is_dir():
        found.doubts.append(f"{RECORDS}: no study was recorded here; run each study once")
    found.doubts += [sentence for name, sentence in doubtful.items() if name not in forget]
    return found


def _present(given: Collection[str]) -> list[str]:
    """Return the study files of the workflow and of the working directory."""
    folders = dict.fromkeys([(workflow_folder() / "studies").resolve(), Path("studies").resolve()])
    files = [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
    files.insert(0, Path(default_study()))
    known = {Path(file).resolve() for file in (*given, toy_study())}
    return [shown(file) for file in files if file.is_file() and file.resolve() not in known]


def _recorded(path: Path) -> Named:
    """Return what a record says."""
    record = json.loads(path.read_text())
    paths = frozenset(map(str, record["artifacts"]))
    when = datetime.fromtimestamp(record["started"]).strftime("%Y-%m-%d %H:%M")
    folder = record.get("folder")  # None: an older record
    where = f" in {folder}" if folder not in (None, str(Path.cwd())) else ""
    return Named(str(record["study"]), f"{path}, last run {when}{where}", paths, path)


def _named(study: str, source: str, artifacts: Iterable[Any]) -> Named:
    return Named(study, str(source), frozenset(artifact.path for artifact in artifacts))


def _unrecorded(found: Studies) -> dict[str, str]:
    """Return a warning per study with tables here that is neither recorded nor present, by name."""
    known = {study.study for study in found.named}
    folders = [folder for folder in Path(RESULTS, "tables").glob("*") if folder.is_dir()]
    return {
        folder.name: f"{folder}: the tables of a study that is neither recorded nor present; give "
        "its file with --configfile to keep what it names, or let go of it with --forget "
        f"{folder.name}"
        for folder in sorted(folders)
        if folder.name not in known
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
