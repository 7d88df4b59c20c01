"""Whether two values of a metric were measured in one way, so that they can be compared."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from diffusability.scoring.table import decides_value, is_unconditional

BOUND = "data-limited"  # as the flags of values begin that are bounds, not estimates
CHANCE = 0.02  # of an accuracy, by which values with other classes are at most apart
# VIV is measured lower with few images of a class (4 % with 60): where one side has fewer than FEW,
# the other may have MANY times as many at most
FEW, MANY = 100, 4


def is_bound(flags: Collection[str]) -> bool:
    """Return whether the flags of a value say that it is a bound."""
    return any(flag.startswith(BOUND) for flag in flags)


def of_table(options: str, flags: str) -> Mapping[str, Any]:
    """Return options and flags of a row of `measurements.csv`; either may be empty."""
    return {"options": json.loads(options or "{}"), "flags": flags.split("; ")}


def difference(m: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return why the value of a measurement cannot be compared with a known one, or nothing.

    Entropy and Fréchet distances change with the number of points, VIV with the use of labels: a
    value has a place only among those with equal options, with a like chance, and with like numbers
    of images of a class. Options of which only one says anything, as in tables of earlier versions,
    are taken to be equal.

    Args:
        m: a measurement, or its `flags` and `options`. other: the known one, of the same metric.
    """
    if is_bound(m["flags"]):
        return "a bound, because there are too few images for an estimate"
    if is_bound(other["flags"]):
        return "the values of the known spaces are bounds"
    if is_unconditional(m) != is_unconditional(other):
        if is_unconditional(m):
            return "measured without classes here, with classes for the known spaces"
        return "measured with classes here, without for the known spaces"
    own, known = m.get("options") or {}, other.get("options") or {}
    both = own.keys() & known.keys()
    if "chance" in both and abs(own["chance"] - known["chance"]) > CHANCE:
        return f"chance is {own['chance']:.2g} here, {known['chance']:.2g} for the known spaces"
    few = [each["smallest_class"] for each in (own, known)] if "smallest_class" in both else [1]
    if min(few) < FEW and max(few) > MANY * min(few):
        return f"{few[0]} images of the smallest class here, {few[1]} for the known spaces"
    drawn = own.get("posterior"), known.get("posterior")
    if drawn == ("mean", "draw"):
        return "measured on one latent per image here, on posterior draws for the known spaces"
    if drawn == ("draw", "mean"):
        return "measured on posterior draws here, on one latent per image for the known spaces"
    parts = [
        f"{key} {own[key]} (known: {known[key]})"
        for key in own
        if key in known and decides_value(key) and own[key] != known[key]
    ]
    return f"measured otherwise: {', '.join(parts)}" if parts else ""
