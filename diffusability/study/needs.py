"""What has to lie on this machine before the first job of a study may start."""

from collections.abc import Iterable

from diffusability.errors import StudyError
from diffusability.study.spec import Need, Spec
from diffusability.study.study import Study


def study_needs(study: Study) -> tuple[Need, ...]:
    """Return the files that the study's selection reads and no rule makes, each once."""
    used: list[Spec] = [study.dataset]
    used += [study.encoders[name] for name in study.used_encoders]
    used += [study.tokenizers[name] for name in study.selected_tokenizers]
    used += [study.metrics.generation] if study.selected_backbones else []
    return tuple(dict.fromkeys(need for spec in used for need in spec.needs()))


def missing(needs: Iterable[Need]) -> list[Need]:
    """Return those that are not there."""
    return [need for need in needs if not need.path.exists()]


def describe(need: Need) -> str:
    """Return one sentence of what is missing, where it was looked for and how to get it."""
    return f"{need.what}: not at {need.path}; {need.remedy}"


def check_needs(study: Study) -> None:
    """Refuse to start a study that cannot finish.

    Raises:
        StudyError: listing every file that is missing, with its remedy.
    """
    absent = missing(study_needs(study))
    if absent:
        count = "1 file" if len(absent) == 1 else f"{len(absent)} files or folders"
        listing = "\n".join(f"  {describe(need)}" for need in absent)
        raise StudyError(f"study `{study.name}`: {count} missing; nothing was started\n{listing}")
