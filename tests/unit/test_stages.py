"""What stages add to the pure functions under them: balanced shards, declared empty cells."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusability.diffusion.sampler import balanced_labels
from diffusability.metrics.measurement import Measurement
from diffusability.stages.features import Extractor
from diffusability.stages.measurements import write_measurements


def test_shards_of_cyclic_labels_hold_every_class() -> None:
    # every 20th sample of a cycle of 10 classes would be of one class
    labels = balanced_labels(range(1437), 10)
    extractor = SimpleNamespace(moments=lambda part: part[:, 0])
    shards = Extractor.shard_moments(extractor, labels[:, None])  # type: ignore[arg-type]
    assert len(shards) == 20
    assert torch.equal(torch.cat(shards), labels)
    counts = torch.stack([shard.bincount(minlength=10) for shard in shards])
    assert (counts.max(1).values - counts.min(1).values).max() <= 1


def test_impossible_cells_are_declared(tmp_path: Path) -> None:
    good = Measurement("a.b", 1.0, 0.1, 3, flags=("noted",))
    write_measurements(tmp_path, [good], [("a.c", "the grid is not whole")])
    first, second = json.loads((tmp_path / "measurements.json").read_text())
    assert first["value"] == 1.0
    assert first["flags"] == ["noted"]
    assert second["value"] is None
    assert second["flags"] == ["impossible: the grid is not whole"]
    assert first.keys() == second.keys()


@pytest.mark.parametrize(
    ("value", "stderr"), [(float("nan"), 0.1), (1.0, float("inf")), (1.0, -1.0)]
)
def test_no_number_that_spoils_a_table(value: float, stderr: float) -> None:
    from diffusability.errors import MeasurementError

    with pytest.raises(MeasurementError):
        Measurement("a.b", value, stderr, 3)
