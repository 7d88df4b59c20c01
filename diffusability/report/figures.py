"""Figures in a report: those that show data, large enough to be read on a phone."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from diffusability.figures.style import EMPTY
from diffusability.report.pictures import inline
from diffusability.study.core.workflow_files import CAPTIONS
from diffusability.study.planning.targets import figure_files, figure_names
from diffusability.study.study import Study

# CSS pixels per point of a figure: its smallest type has 6 points, and 11 pixels can be read
SCALE = 11.2 / 6
NARROW = "_narrow"  # ends the name of a figure that is shown on a phone in another's place
_DESCRIPTION = ".//{http://purl.org/dc/elements/1.1/}description"


@dataclass(frozen=True)
class Drawing:
    """A figure on the page: its name, caption, data URI, and width in CSS pixels.

    ``narrow`` is shown in its place on a phone.
    """

    name: str
    caption: str
    source: str
    width: int
    narrow: "Drawing | None" = None


def drawings(study: Study) -> tuple[dict[str, Drawing], dict[str, str]]:
    """Return the figures with data by name, and why each of the others has none."""
    drawn, empty = {}, {}
    for name in figure_names(study):
        svg = next(path for path in figure_files(study, name) if path.endswith(".svg"))
        content = Path(svg).read_bytes()
        if reason := drawing_reason(content):
            empty[name] = reason
            continue
        width = float(ElementTree.fromstring(content).attrib["width"].removesuffix("pt"))
        source = inline(content, "image/svg+xml")
        drawn[name] = Drawing(name, caption(f"figures/{name}"), source, round(SCALE * width))
    wide = {name: figure for name, figure in drawn.items() if not name.endswith(NARROW)}
    shown = {n: replace(figure, narrow=drawn.get(n + NARROW)) for n, figure in wide.items()}
    return shown, {name: why for name, why in empty.items() if not name.endswith(NARROW)}


def drawing_reason(svg: bytes) -> str:
    """Return why a figure has no data, as its file says (``figures.style.write_figure``)."""
    found = ElementTree.fromstring(svg).find(_DESCRIPTION)
    return "" if found is None else (found.text or "").removeprefix(EMPTY)


def parted(text: str) -> tuple[str, str]:
    """Return the first sentence of a caption, and all others, which the page folds."""
    head, *rest = re.split(r"(?<=[a-z)\]]\.) (?=[A-Z])", text, maxsplit=1)
    return head, "".join(rest)


def caption(name: str) -> str:
    """Return the caption of a figure, table or picture on one line."""
    return " ".join((CAPTIONS / f"{name}.rst").read_text(encoding="utf-8").split())
