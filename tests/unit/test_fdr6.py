"""FDr6: the table of extractors, stored normalisers, the mean of ratios, what is refused."""

import json
import math
from dataclasses import replace

import pytest
import torch

from diffusability.errors import MeasurementError
from diffusability.metrics.fdr6 import (
    compute_normaliser,
    load_normalisers,
    load_references,
    measure_fdr6,
    save_normalisers,
    save_references,
)
from diffusability.metrics.feature_moments import FeatureMoments, merge_moments
from diffusability.metrics.frechet import frechet_distance
from diffusability.metrics.measurement import Measurement
from diffusability.study.entries.representations import FDR6_SPACES, REPRESENTATIONS

NAMES = ["inception", *REPRESENTATIONS]


def features(name: str, *, seed: int, count: int = 120, shift: float = 0.0) -> torch.Tensor:
    """Features of the same images in six spaces of different sizes and scales."""
    position = NAMES.index(name)
    dim = 2 + position
    generator = torch.Generator().manual_seed(100 * seed + position)
    x = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return (x + shift) * 10.0**position


def moments(name: str, x: torch.Tensor) -> FeatureMoments:
    return FeatureMoments.from_features(x, extractor=name, resolution=32)


REFERENCES = {name: moments(name, features(name, seed=1, count=400)) for name in NAMES}
VALIDATION = {name: moments(name, features(name, seed=2, shift=0.1)) for name in NAMES}
NORMALISERS = {
    name: compute_normaliser(reference=REFERENCES[name], validation=VALIDATION[name])
    for name in NAMES
}
GENERATED = {
    name: [moments(name, part) for part in features(name, seed=3, shift=0.4).tensor_split(6)]
    for name in NAMES
}


def measure(**changes) -> dict[str, Measurement]:
    given = {"references": REFERENCES, "generated": GENERATED, "normalisers": NORMALISERS}
    return {m.metric: m for m in measure_fdr6(**(given | changes))}


def test_the_six_spaces_are_the_papers() -> None:
    found = [(f.network, f.input_side, f.feature) for f in REPRESENTATIONS.values()]
    assert found == [
        ("convnextv2_base.fcmae_ft_in22k_in1k", 224, "spatial mean"),
        ("vit_large_patch14_dinov2.lvd142m", 256, "class token"),
        ("vit_large_patch16_224.mae", 224, "class token"),
        ("vit_so400m_patch16_siglip_256.v2_webli", 224, "attention pool"),
        ("vit_large_patch14_clip_224.openai", 256, "class token"),
    ]
    assert len(found) + 1 == FDR6_SPACES  # and Inception


def test_is_the_arithmetic_mean_of_ratios() -> None:
    found = measure()
    ratios = [
        frechet_distance(REFERENCES[n], merge_moments(GENERATED[n]))
        / frechet_distance(REFERENCES[n], VALIDATION[n])
        for n in NAMES
    ]
    assert found["generation.fdr6"].value == pytest.approx(sum(ratios) / 6, rel=1e-10)
    for name, ratio in zip(NAMES, ratios, strict=True):
        assert found[f"generation.fdr_{name}"].value == pytest.approx(ratio, rel=1e-10)
    assert found["generation.fdr6"].higher_is_better is False
    assert len(found) == 7


def test_real_validation_images_score_one() -> None:
    halves = {n: [moments(n, p) for p in features(n, seed=2, shift=0.1).split(60)] for n in NAMES}
    found = measure(generated=halves)
    assert all(m.value == pytest.approx(1.0, rel=1e-9) for m in found.values())


def test_standard_error_leaves_a_shard_out_of_all_spaces_at_once() -> None:
    means = []
    for j in range(6):
        rest = {n: GENERATED[n][:j] + GENERATED[n][j + 1 :] for n in NAMES}
        means.append(measure(generated=rest)["generation.fdr6"].value)
    centre = sum(means) / 6
    expected = math.sqrt(5 / 6 * sum((m - centre) ** 2 for m in means))
    assert measure()["generation.fdr6"].stderr == pytest.approx(expected, rel=1e-6)


def test_normalisers_keep_full_precision_on_disk(tmp_path) -> None:
    save_normalisers(tmp_path / "n.json", list(NORMALISERS.values()))
    assert load_normalisers(tmp_path / "n.json") == NORMALISERS


def test_references_keep_every_bit_on_disk(tmp_path) -> None:
    save_references(tmp_path / "r.safetensors", list(REFERENCES.values()))
    found = load_references(tmp_path / "r.safetensors")
    assert {n: m.digest() for n, m in found.items()} == {
        n: m.digest() for n, m in REFERENCES.items()
    }


def test_altered_normalisers_are_refused(tmp_path) -> None:
    path = tmp_path / "n.json"
    save_normalisers(path, list(NORMALISERS.values()))
    stored = json.loads(path.read_text())
    stored["normalisers"][0]["value"] = round(stored["normalisers"][0]["value"], 2)
    path.write_text(json.dumps(stored))
    with pytest.raises(MeasurementError, match="altered"):
        load_normalisers(path)
    path.write_text("{}")
    with pytest.raises(MeasurementError, match="cannot be read"):
        load_normalisers(path)
    with pytest.raises(MeasurementError, match="do not exist"):
        load_normalisers(tmp_path / "missing.json")


def test_missing_unknown_and_mismatched_parts_are_refused() -> None:
    five = {n: NORMALISERS[n] for n in NAMES[:5]}
    with pytest.raises(MeasurementError, match=r"normalisers lack \['clip'\]"):
        measure(normalisers=five)
    with pytest.raises(MeasurementError, match="averages over 6 extractors"):
        measure(generated={n: GENERATED[n] for n in NAMES[1:]})
    with pytest.raises(MeasurementError, match="unknown"):
        measure(references=REFERENCES | {"own": REFERENCES["mae"]})
    other = REFERENCES | {"mae": moments("mae", features("mae", seed=9, count=400))}
    with pytest.raises(MeasurementError, match="another reference"):
        measure(references=other)
    swapped = NORMALISERS | {"mae": NORMALISERS["clip"]}
    with pytest.raises(MeasurementError, match="another reference"):
        measure(normalisers=swapped)
    zero = NORMALISERS | {"mae": replace(NORMALISERS["mae"], value=0.0)}
    with pytest.raises(MeasurementError, match="not positive"):
        measure(normalisers=zero)


def test_other_images_in_one_space_are_refused() -> None:
    uneven = GENERATED | {
        "mae": [moments("mae", p) for p in features("mae", seed=3).tensor_split([10])]
    }
    with pytest.raises(MeasurementError, match="same images"):
        measure(generated=uneven)


def test_too_few_images_are_flagged() -> None:
    few = {
        n: [moments(n, p) for p in features(n, seed=3, count=6, shift=0.4).split(3)] for n in NAMES
    }
    with pytest.warns(
        UserWarning, match=r"no more images than features in siglip2 \(6\), clip \(7"
    ):
        assert measure(generated=few)["generation.fdr6"].flags == ("rank-deficient",)
    assert measure()["generation.fdr6"].flags == ()


def test_a_normaliser_of_too_few_images_is_flagged() -> None:
    small = compute_normaliser(
        reference=REFERENCES["clip"],
        validation=moments("clip", features("clip", seed=2, count=7, shift=0.1)),
    )
    with pytest.warns(UserWarning, match=r"features in clip \(7\); a covariance is rank-deficient"):
        found = measure(normalisers=NORMALISERS | {"clip": small})
    assert found["generation.fdr6"].flags == ("rank-deficient",)


def test_the_reference_is_no_validation_set() -> None:
    with pytest.raises(MeasurementError, match="same set"):
        compute_normaliser(reference=REFERENCES["mae"], validation=REFERENCES["mae"])
