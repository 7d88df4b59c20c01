"""Why an artifact exists or would be made: its job, its inputs, and what differs."""

import os
import re
from datetime import datetime
from pathlib import Path

from diffusability.artifacts.bulk import evicted
from diffusability.artifacts.card import read_card
from diffusability.artifacts.inventory import is_done, reasons
from diffusability.artifacts.status import duration, wrapped
from diffusability.errors import StudyError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.core.problems import nearest
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import CARD, STAGES
from diffusability.study.planning.targets import figure_files, report_file, table_files

FINGERPRINT = re.compile(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])")
INDENT = " " * 8
LISTED = 5  # listed artifacts that a table waits for


def explain(plan: Plan, name: str) -> str:
    """Return why the artifacts that match `name` exist or not.

    Args:
        plan: of the study.
        name: path of an artifact, one of its files or its log, or of a table or figure; or a
            prefix of artifact names; empty for all.

    Raises:
        StudyError: nothing in the study has that name.
    """
    study = plan.study
    if name:
        name = os.path.relpath(name)
    if name in (*table_files(study), *figure_files(study), report_file(study)):
        return "\n".join(_explain_result(plan, name))
    chosen = _chosen(plan, name)
    if chosen:
        return "\n".join(line for artifact in chosen for line in _explain(artifact))
    for folder in (Path(name), Path(name).parent):
        if (folder / CARD).exists():
            return "\n".join(_explain_stranger(plan, folder))
    hint = nearest(name, {artifact.name for artifact in plan})
    raise StudyError(f"{name}: no artifact of this study ({hint})")


def _chosen(plan: Plan, name: str) -> list[Artifact]:
    fingerprints = set(FINGERPRINT.findall(name))
    if fingerprints:
        return [artifact for artifact in plan if artifact.fingerprint in fingerprints]
    path = str(Path(name)) if name else ""
    whole = [
        artifact
        for artifact in plan
        if f"{artifact.name}/".startswith(f"{name}/") or f"{artifact.path}/".startswith(f"{path}/")
    ]
    return whole or [artifact for artifact in plan if artifact.name.startswith(name)]


def _explain(artifact: Artifact) -> list[str]:
    there = is_done(artifact)
    lines = [f"{'done   ' if there else 'to make'} {artifact.path}"]
    if there:
        return lines + _made(Path(artifact.path))
    origin = ", ".join(
        f"{role} {upstream.name} ({'there' if is_done(upstream) else 'to make'})"
        for role, upstream in artifact.upstream.items()
    )
    rule = STAGES[artifact.stage].rule
    lines += wrapped(f"by {rule}" + (f" from {origin}" if origin else ""), INDENT)
    return lines + [line for reason in reasons(artifact) for line in wrapped(reason, INDENT)]


def _made(folder: Path) -> list[str]:
    """Return when, where and by which rule a finished artifact was made."""
    card = read_card(folder)
    when = datetime.fromtimestamp(card["started"]).strftime("%Y-%m-%d %H:%M")
    tries = f" at attempt {card['attempts']}" if card["attempts"] > 1 else ""
    text = (
        f"made {when} by {STAGES[card['stage']].rule} in {duration(card['seconds'])}{tries} on "
        f"{card['machine']['device']}"
    )
    gone = evicted(folder, card)
    text += f"; {len(gone)} files were evicted, and are made again when needed" if gone else ""
    return wrapped(text, INDENT)


def _explain_stranger(plan: Plan, folder: Path) -> list[str]:
    """Explain an artifact outside the study by the most similar one in the study."""
    lines = [f"unused  {folder}", *_made(folder)]
    instead = [artifact for artifact in plan if Path(artifact.path).parent == folder.parent]
    lines += wrapped("the study does not name it" + ("; instead:" if instead else ""), INDENT)
    return lines + [line for artifact in instead for line in _explain(artifact)]


def _explain_result(plan: Plan, name: str) -> list[str]:
    """Explain a table, a figure or the report, which depend on all measurements."""
    waits = [artifact for artifact in plan.measured if not is_done(artifact)]
    lines = [f"{'there  ' if Path(name).exists() else 'to make'} {name}"]
    text = f"from {len(plan.measured)} measurements"
    if not waits:
        text += f", all done; `{snakemake_command('-n')}` says what is new"
        return [*lines, *wrapped(text, INDENT)]
    lines += wrapped(f"{text}, {len(waits)} still to be made:", INDENT)
    lines += [f"{INDENT}{artifact.stage} {artifact.name}" for artifact in waits[:LISTED]]
    return lines + [f"{INDENT}..."] * (len(waits) > LISTED)
