"""What has to be on this machine before the first job of a study may start."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec

from diffusability.errors import StudyError
from diffusability.study.core.commands import install_command
from diffusability.study.core.spec import NamedContent, Need, Spec
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.study import Study

EXTRAS = {"pyarrow": "parquet"}  # package to its extra, where that is not `paper`


def study_needs(study: Study) -> tuple[Need, ...]:
    """Return the files that the study's selection reads and no rule makes, each once."""
    return tuple(dict.fromkeys(need for spec in _used(study) for need in spec.needs()))


def named_contents(study: Study) -> list[NamedContent]:
    """Return the files of the study's selection that a name of its own stands for."""
    return [named for spec in _used(study) for named in spec.named_contents()]


def missing_packages(study: Study) -> list[str]:
    """Return the packages that the study's selection imports and that are not installed."""
    named = dict.fromkeys(package for spec in _used(study) for package in spec.packages())
    return [package for package in named if find_spec(package) is None]


def broken_packages(study: Study) -> dict[str, str]:
    """Return the packages that the selection imports and that fail to import, with the cause.

    They are imported in a process of their own, in seconds.
    """
    named = dict.fromkeys(package for spec in _used(study) for package in spec.packages())
    there = [package for package in named if find_spec(package) is not None]
    if not there:
        return {}
    command = [sys.executable, "-m", "diffusability.encoders.packages", *there]
    said = subprocess.run(command, capture_output=True, text=True)
    lines = [line.partition("\t") for line in said.stdout.splitlines() if "\t" in line]
    found = {package: cause for package, _, cause in lines if package in there}
    if said.returncode and not found:  # killed, or a compiled part ended the process
        words = (said.stderr.strip().splitlines() or [f"exit status {said.returncode}"])[-1]
        found = {", ".join(there): words}
    return found


def _used(study: Study) -> list[Spec]:
    """Return what the selection runs of all that is declared."""
    used: list[Spec] = [study.dataset]
    used += [study.encoders[name] for name in study.used_encoders]
    used += [study.generation] if study.generates else []
    tokenizers = [study.tokenizers[name] for name in study.made_tokenizers]
    used += tokenizers
    return used + [t.regularizer for t in tokenizers if isinstance(t, TokenizerSpec)]


def missing(needs: Iterable[Need]) -> list[Need]:
    """Return those that are not there."""
    return [need for need in needs if not need.there]


def describe_package(package: str) -> str:
    """Return one sentence of what is missing and how to get it."""
    extra = EXTRAS.get(package, "paper")
    return (
        f"package {package}: not installed; install the `{extra}` extra: {install_command(extra)}"
    )


def check_needs(study: Study) -> None:
    """Refuse to start a study that cannot finish.

    Raises:
        StudyError: listing every file and package that is missing, with its remedy.
    """
    absent = [str(need) for need in missing(study_needs(study))]
    packages = [describe_package(package) for package in missing_packages(study)]
    packages += [
        f"package {package}: is installed but does not import: {cause}"
        for package, cause in broken_packages(study).items()
    ]
    if absent or packages:
        counts = [(absent, "file", "files or folders"), (packages, "package", "packages")]
        what = " and ".join(
            f"{len(lines)} {one if len(lines) == 1 else many}"
            for lines, one, many in counts
            if lines
        )
        listing = "\n".join(f"  {line}" for line in [*packages, *absent])
        raise StudyError(
            f"study `{study.name}`: {what} missing; aborted before any job started\n{listing}"
        )
