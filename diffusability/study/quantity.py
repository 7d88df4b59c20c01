"""What the page of metrics says about each: definition, unit, direction, equations, source."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from inspect import cleandoc
from typing import Literal

Direction = Literal["higher", "lower", "none", "as above"]
ABOVE = "as above"


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

    def row(self, headline: str) -> str:
        """Return the row of the table; `headline` names the measurement to be marked."""
        names = ", ".join(f"`{name}`" for name in self.names.split())
        better = "–" if self.better == "none" else self.better
        mark = ". **Headline**" if headline and headline in self.names.split() else ""
        return f"| {names} | {self.definition}{mark} | {self.unit} | {better} |"

    def patterns(self) -> list[str]:
        """Return the names as shell patterns."""
        return re.sub(r"<\w+>", "*", self.names).split()

    def states(self, unit: str, higher_is_better: bool | None) -> bool:
        """Whether unit and direction of a measurement are those of the row."""
        directions = {"higher": True, "lower": False, "none": None}
        same = self.better == ABOVE or directions[self.better] is higher_is_better
        return same and self.unit in (unit, ABOVE)


def documenting(quantities: Sequence[Quantity], metric: str) -> list[Quantity]:
    """Return the rows for a measurement: those with its exact name, else those that fit it."""
    exact = [q for q in quantities if metric in q.names.split()]
    fitting = [q for q in quantities if any(fnmatchcase(metric, p) for p in q.patterns())]
    return exact or fitting


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
