"""What the page of metrics says about each: definition, unit, direction, equations, source."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from inspect import cleandoc
from typing import Literal

Direction = Literal["higher", "lower", "none", "as above"]


@dataclass(frozen=True)
class Quantity:
    """One row of a metric's table: a measured number, or a family of them.

    Attributes:
        names: names of the measurements, separated by spaces. `*` is a part that varies, and so is
            `<word>`.
        definition: what the number is, in a few words of Markdown.
        better: direction in which the source expects a latent space to be easier to learn.
        unit: `1` for a pure number. `as above`: that of the rows before, also for `better`.
    """

    names: str
    definition: str
    better: Direction
    unit: str = "1"

    def covers(self, metric: str) -> bool:
        """Return whether a measurement of this name is one of these numbers."""
        patterns = re.sub(r"<[^>]*>", "*", self.names).split()
        return any(fnmatchcase(metric, pattern) for pattern in patterns)

    def row(self, headline: str) -> str:
        """Return the row of the table; `headline` names the measurement to be marked."""
        names = ", ".join(f"`{name}`" for name in self.names.split())
        better = "–" if self.better == "none" else self.better
        mark = ". **Headline**" if headline and headline in self.names.split() else ""
        return f"| {names} | {self.definition}{mark} | {self.unit} | {better} |"


def section(
    heading: str, about: str, quantities: Sequence[Quantity], prose: str, headline: str = ""
) -> list[str]:
    """Return the lines of a metric's section.

    Args:
        heading: of the section. about: what is measured, in one sentence.
        quantities: rows of the table. prose: equations and source; empty for none.
        headline: the measurement that is in the headline of every report, if one is.
    """
    lines = ["", f"## {heading[0].upper()}{heading[1:]}", "", about, ""]
    lines += ["| metric | definition | unit | direction |", "|---|---|---|---|"]
    lines += [quantity.row(headline) for quantity in quantities]
    return [*lines, *(("", prose) if prose else ())]


def after_first_paragraph(docstring: str | None) -> str:
    """Return what a docstring says after its first paragraph, which is about options."""
    return cleandoc(docstring or "").partition("\n\n")[2]
