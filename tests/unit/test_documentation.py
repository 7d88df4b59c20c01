"""What the documentation says exists: links, files, keys, metrics and studies."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import yaml
from pydantic import BaseModel

from diffusability.study.core.merge import merge
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import Study
from tests.conftest import REPOSITORY
from tests.documented import undocumented

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
PAGES += sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```sh\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
FOLDERS = ("docs/", "studies/", "diffusability/", "tests/", "rules/", "scripts/", "slurm/")
FOLDERS += ("benchmarks/", "envs/", "profiles/")
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
KEY = re.compile(r"`((?:metrics|select|analysis|sampling|encoding)\.[\w.]+)")
WRITTEN_BY_READERS = "/extremes.rst"  # captions of the examples in docs/extending.md


def name(page: Path) -> str:
    """Return the path of a page in the repository."""
    return str(page.relative_to(REPOSITORY))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_exist(page: Path) -> None:
    """Names with <...> or * are patterns of many files."""
    words = [w for code in CODE.findall(page.read_text()) for w in "".join(code).split()]
    for word in words:
        if not word.startswith(FOLDERS) or re.search(r"[<{*…]", word):
            continue
        roots = (REPOSITORY, REPOSITORY / "diffusability")
        assert word.endswith(WRITTEN_BY_READERS) or any((root / word).exists() for root in roots), (
            f"{word}: no such file"
        )


def test_the_patterns_find_what_they_look_for() -> None:
    """Else the tests of this file would pass on anything."""
    texts = [page.read_text() for page in PAGES]
    assert len(texts) > 15
    for pattern, least in ((LINK, 100), (CODE, 500), (KEY, 30), (BLOCK, 10)):
        assert sum(len(pattern.findall(text)) for text in texts) > least, pattern.pattern


STUDIES = [
    pytest.param(text, id=f"{name(page)}-{number}")
    for page in PAGES
    for number, text in enumerate(BLOCK.findall(page.read_text()))
    if "executor:" not in text  # that is a profile of Snakemake
]


@pytest.mark.parametrize("text", STUDIES)
def test_studies_resolve(text: str, repository: Path) -> None:
    """A whole study resolves by itself, a part of one on top of the default study."""
    data = yaml.safe_load(text)
    if "select" not in data:
        data = merge(yaml.safe_load((repository / "config.yaml").read_text()), data)
    resolve_study(data, "documentation")


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_keys_exist(page: Path) -> None:
    for key in KEY.findall(page.read_text()):
        found: list[type[BaseModel]] = [Study]
        for part in key.rstrip(".").split("."):
            fields = [m.model_fields[part] for m in found if part in m.model_fields]
            assert fields, f"{key}: no model of the study has {part}"
            found = [m for field in fields for m in models(field.annotation)]


def test_every_metric_of_a_table_is_documented() -> None:
    """With its unit and direction."""
    table = pd.read_csv(DOCS / "gallery/fashion/tables/measurements.csv.gz", low_memory=False)
    assert undocumented(table) == []


def test_every_page_is_in_the_navigation() -> None:
    configuration = (REPOSITORY / "mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert f" {page.relative_to(DOCS)}\n" in configuration, f"{page}: not in mkdocs.yml"


def test_readme_is_short_and_names_the_papers() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    for paper in citation["references"]:
        number = paper["identifiers"][0]["value"].removeprefix("arXiv:")
        assert number in text, f"README.md does not name {number}"


@pytest.mark.release
@pytest.mark.parametrize("page", ["fisher.md", "metrics.md", "score.md"])
def test_python_examples_run_when_pasted(page: str) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.DOTALL)
    assert examples
    exec(compile("\n".join(examples), page, "exec"), {})


def test_python_example_is_the_same_everywhere() -> None:
    """The README's is run by its own test."""
    for page in (REPOSITORY / "README.md", DOCS / "metrics.md"):
        assert "for m in velocity(latents, labels):" in page.read_text()
