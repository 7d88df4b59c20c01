"""The two locks: one holds all that a study needs, both together all that the checks need."""

import re
import tomllib
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
STUDY = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["build-system"]["requires"],
    *EXTRAS["slurm"],
]


def normal(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(*files: str) -> dict[str, str]:
    """Return package and version of every line of lock files."""
    lines = [line for file in files for line in (REPOSITORY / file).read_text().splitlines()]
    named = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in named}


def closure(requirements: list[str]) -> dict[str, Requirement]:
    """Return all that requirements bring with them, by name, as far as it is installed here."""
    found: dict[tuple[str, frozenset[str]], Requirement] = {}
    frontier = [Requirement(text) for text in requirements]
    while frontier:
        one = frontier.pop()
        key = normal(one.name), frozenset(one.extras)
        if key in found:
            continue
        found[key] = one
        for text in requires(one.name) or []:
            needed = Requirement(text)
            wanted = [{"extra": extra} for extra in ("", *one.extras)]
            if needed.marker is None or any(needed.marker.evaluate(env) for env in wanted):
                frontier.append(needed)
    return {name: requirement for (name, _), requirement in found.items()}


@pytest.mark.parametrize(
    ("requirements", "files"),
    [
        (STUDY, ("requirements.lock",)),
        (
            [*STUDY, *EXTRAS["dev"], *EXTRAS["docs"]],
            ("requirements.lock", "requirements-dev.lock"),
        ),
    ],
    ids=["study", "checks"],
)
def test_a_lock_holds_what_its_requirements_bring(
    requirements: list[str], files: tuple[str, ...]
) -> None:
    locked = pins(*files)
    for name, requirement in closure(requirements).items():
        assert name in locked, f"{name} is in none of {', '.join(files)}"
        assert requirement.specifier.contains(locked[name], prereleases=True), requirement


def test_a_package_is_locked_once() -> None:
    assert not pins("requirements.lock").keys() & pins("requirements-dev.lock").keys()
    assert "pytest" not in pins("requirements.lock")
