"""Write the measurements of one artifact."""

from collections.abc import Iterable
from pathlib import Path

from diffusability.artifacts.atomic import write_json
from diffusability.metrics.measurement import Measurement


def write_measurements(folder: Path, measurements: Iterable[Measurement]) -> None:
    """Write measurements.json into the folder of an artifact's outputs."""
    write_json(folder / "measurements.json", [m.to_json() for m in measurements])
