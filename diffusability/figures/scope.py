"""Which generation results one panel shows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from diffusability.figures.results import Results


@dataclass(frozen=True)
class Scope:
    """A generation metric of one backbone, guidance scale and tokenizer family.

    Attributes:
        target: generation metric. backbone: diffusion network. family: of tokenizers.
        cfg: guidance scale; None means each tokenizer at its own best.
    """

    target: str
    backbone: str
    cfg: float | None
    family: str

    @property
    def place(self) -> str:
        """Backbone, guidance and family, for headings."""
        return f"{self.backbone}, {self.guidance}, {self.family}"

    @property
    def guidance(self) -> str:
        """The guidance scale in words."""
        return "best guidance of each" if self.cfg is None else f"guidance {self.cfg:g}"

    def at(self, **changes: object) -> "Scope":
        """Return the scope with another backbone, guidance scale or family."""
        return replace(self, **changes)  # type: ignore[arg-type]


def backbones(results: Results, target: str) -> list[str]:
    """Return the backbones that have a target, in the order of the table."""
    table = results.measurements
    return list(dict.fromkeys(table.loc[table["metric"] == target, "backbone"]))


def scales(results: Results, target: str, backbone: str) -> list[float]:
    """Return the guidance scales of a target and backbone, ascending."""
    table = results.measurements
    chosen = (table["metric"] == target) & (table["backbone"] == backbone)
    return sorted(float(cfg) for cfg in table.loc[chosen, "cfg"].dropna().unique())


def reference_scope(results: Results, target: str) -> Scope | None:
    """Return what figures show where they vary nothing, None where the target is not measured.

    The first backbone, at its smallest guidance scale, and the family of most tokenizers.
    """
    there = backbones(results, target)
    if not there:
        return None
    table = results.measurements.drop_duplicates("tokenizer")
    largest = max(results.families, key=lambda family: int((table["family"] == family).sum()))
    lowest = scales(results, target, there[0])
    return Scope(target, there[0], lowest[0] if lowest else None, largest)


def backbone_scopes(results: Results, target: str) -> Iterator[Scope]:
    """Yield the reference scope for every backbone, each at its smallest guidance scale."""
    reference = reference_scope(results, target)
    for backbone in backbones(results, target) if reference else []:
        lowest = scales(results, target, backbone)
        yield reference.at(backbone=backbone, cfg=lowest[0] if lowest else None)  # type: ignore[union-attr]
