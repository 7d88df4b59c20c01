"""Selection of names by the shell patterns of a claim."""

from collections.abc import Sequence
from fnmatch import fnmatchcase


def fits(text: str, wanted: object) -> bool:
    """Return whether a text matches a shell pattern, or a list of them with ``!``; None: any."""
    patterns = named(wanted)
    without = [p[1:] for p in patterns if p.startswith("!")]
    within = [p for p in patterns if not p.startswith("!")] or ["*"]
    return any(fnmatchcase(text, p) for p in within) and not any(
        fnmatchcase(text, p) for p in without
    )


def named(wanted: object) -> list[str]:
    """Return one pattern or several as a list; none of None."""
    if wanted is None:
        return []
    return (
        [wanted]
        if isinstance(wanted, str)
        else list(wanted)
        if isinstance(wanted, Sequence)
        else []
    )
