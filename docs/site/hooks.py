"""What mkdocs does beyond its plugins: equations without a script, and an API page per package."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "diffusability"
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
API_PAGE = """# diffusability.{name}

::: diffusability.{name}
"""


def packages() -> list[str]:
    """Return the names of the library's packages."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add one page per package to the navigation."""
    assert config.nav is not None
    config.nav.append({"API reference": [{name: f"api/{name}.md"} for name in packages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Generate the pages of the packages."""
    for name in packages():
        content = API_PAGE.format(name=name)
        files.append(File.generated(config, f"api/{name}.md", content=content))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Replace equations by MathML, which browsers draw themselves."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        return str(convert(html.unescape(match[3]), display=display))

    return EQUATION.sub(mathml, content)
