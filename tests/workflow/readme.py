"""The README as tests read it: its code blocks, and which of its commands run without results."""

import re

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
# `make test` runs this very test; `make test-all` runs for most of an hour; the autoencoder is the
# reader's own (tests/full/test_score_networks.py scores some)
VAE = "diffusability score --vae path/to/autoencoder --images path/to/images"
# an editable installation of a copy without the library would take it from every later test
INSTALL = {"make install", "source .venv/bin/activate", 'pip install -e ".[paper]"'}
NOT_RUN = {"make test", "make test-all", VAE, *INSTALL}
PLANS = re.compile(r"^snakemake .*(-n|--dry-run)\b|^diffusability (plan|ls|status|gc)\b(?!.*--yes)")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Return every line of the README's shell blocks, without comments."""
    lines = [line.split(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def quick_commands() -> list[str]:
    """Return the commands that only plan or look: they need no results and make none."""
    return [command for command in commands() if PLANS.match(command)]


def long_commands() -> list[str]:
    """Return the commands that need the default study or make something, in the README's order."""
    return [c for c in commands() if c not in {*NOT_RUN, *quick_commands(), "make study"}]
