"""What the stages of metrics return, and how it is written."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from diffusability.artifacts.atomic import write_json
from diffusability.metrics.measurement import Measurement

# measurements, and metrics that are not applicable here, each with the reason
Found = tuple[Sequence[Measurement], Sequence[tuple[str, str]]]


def write_measurements(
    folder: Path,
    measurements: Iterable[Measurement],
    without: Iterable[tuple[str, str]] = (),
) -> None:
    """Write measurements.json into the folder of an artifact's outputs.

    Args:
        folder: where to write.
        measurements: the numbers.
        without: metrics that are not applicable here, each with the reason; they are empty cells of
            the table.
    """
    cells = [m.to_json() for m in measurements] + [_declare(*cell) for cell in without]
    write_json(folder / "measurements.json", cells)


def _declare(metric: str, reason: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": None,
        "stderr": None,
        "n": 0,
        "unit": "1",
        "higher_is_better": None,
        "options": {},
        "flags": [f"not applicable: {reason}"],
    }
