"""Which pictures a report carries, and how large they are."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from diffusability.report.pictures import LONGEST_SIDE, inline_picture, shown_samples
from diffusability.study.planning.plan import Artifact

TARGET = "generation.fd_judge"


@pytest.fixture
def generation(tmp_path, monkeypatch):
    """Return a function that measures one set of samples."""
    monkeypatch.chdir(tmp_path)

    def measure(backbone, guidance, value, *, seed="0", tokenizer_seed="0", higher=False):
        labels = {"tokenizer": "a", "tokenizer_seed": tokenizer_seed, "backbone": backbone}
        labels |= {"seed": seed, "guidance": guidance, "snapshot": ""}
        spec = {"value": value, "labels": labels}
        artifact = Artifact("generation", labels, spec, 0, {})
        folder = tmp_path / artifact.path
        folder.mkdir(parents=True)
        measured = {"metric": TARGET, "value": value, "higher_is_better": higher}
        (folder / "measurements.json").write_text(json.dumps([measured]))
        return artifact

    return measure


def test_samples_are_of_the_first_seed_at_the_smallest_and_the_best_scale(generation):
    smallest = generation("sit", "1", 9.0)
    middle, best = generation("sit", "1.5", 8.0), generation("sit", "10", 3.0)
    other = generation("sit", "1.5", 1.0, seed="1")
    retrained = generation("sit", "10", 1.0, tokenizer_seed="1")
    second = generation("dit", "1", 2.0)
    found = shown_samples([middle, best, smallest, other, retrained, second], TARGET)
    assert found == [best, smallest, second]


def test_the_best_scale_follows_the_direction_of_the_target(generation):
    scales = [generation("sit", g, v, higher=True) for g, v in (("1", 2.0), ("2", 5.0), ("3", 4.0))]
    assert shown_samples(scales, TARGET) == scales[:2]
    unknown = [generation("dit", "1", 2.0), generation("dit", "2", None)]
    assert shown_samples(unknown, TARGET) == unknown[:1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_picture_is_exact_and_a_large_one_is_shrunk(tmp_path, channels):
    random = np.random.default_rng(0)
    shape = (40, LONGEST_SIDE, channels)
    pixels = random.integers(0, 256, shape, dtype=np.uint8).squeeze()
    Image.fromarray(pixels).save(tmp_path / "small.png")
    shown = _decode(inline_picture(tmp_path / "small.png"))
    assert np.array_equal(shown, np.broadcast_to(pixels.reshape(shape), (*shape[:2], 3)))
    Image.fromarray(np.tile(pixels, (20, 2, 1)[: pixels.ndim])).save(tmp_path / "large.png")
    packed = inline_picture(tmp_path / "large.png")
    assert _decode(packed).shape == (400, LONGEST_SIDE, 3)
    assert len(packed) < (tmp_path / "large.png").stat().st_size / 2


def _decode(uri: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
