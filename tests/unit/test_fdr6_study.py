"""FDr6 in a study: one reference for all sets of samples, values by hand, names that stay."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusability.data.images import to_float
from diffusability.data.load import load_dataset
from diffusability.encoders.load import load_encoder
from diffusability.errors import ArtifactError
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.frechet import frechet_distance
from diffusability.study.planning.plan import Plan
from tests.unit.study_run import measurements, plan_of, run_plan

SPACES = ("judge", "a", "b", "c", "d", "e")
GUIDANCE = ("guidance1", "guidance1.5")
CELL = "generation/conv-base/s0/sit-a/s0/"


def study(**generation: Any) -> dict[str, Any]:
    """The smoke study with five further spaces, and two sets of samples."""
    own = {
        name: {"kind": "supervised", "width": 4, "features": 3 + i, "factor": 2, "seed": i}
        for i, name in enumerate(SPACES[1:])
    }
    return {
        "encoders": {name: {**entry, "train": {"steps": 1}} for name, entry in own.items()},
        "metrics": {"generation": {"fdr6": list(SPACES), **generation}},
        "sampling": {"guidance": [1.0, 1.5]},
        "select": {"tokenizers": ["conv-base"]},
    }


def names(plan: Plan) -> dict[str, str]:
    """Return the fingerprints of a plan by stage and name."""
    return {f"{a.stage}/{a.name}": a.fingerprint for a in plan}


def test_nothing_else_is_renamed() -> None:
    without = study()
    del without["metrics"]
    off, on = names(plan_of(study(fdr6=None))), names(plan_of(study()))
    assert off == names(plan_of(without))
    changed = {key for key in on if off.get(key) != on[key]}
    new = {f"encoder/{name}" for name in SPACES[1:]}
    assert changed == {"fdr6_reference/digits", *new, *(CELL + scale for scale in GUIDANCE)}


def test_the_reference_depends_on_images_and_extractors_alone() -> None:
    (plain,) = plan_of(study()).of_stage("fdr6_reference")
    assert set(plain.upstream) == {"dataset", *(f"fdr6_extractor_{i}" for i in range(6))}
    other = study(extractor="a", reference="val") | {"sampling": {"count": 41}}
    (same,) = plan_of(other).of_stage("fdr6_reference")
    assert same.fingerprint == plain.fingerprint
    retrained = study()
    retrained["encoders"]["e"]["seed"] = 9
    (changed,) = plan_of(retrained).of_stage("fdr6_reference")
    assert changed.fingerprint != plain.fingerprint


def test_values_by_hand(workplace: Path) -> None:
    plan = plan_of(study())
    assert len(plan.of_stage("fdr6_reference")) == 1
    assert len(plan.of_stage("generation")) == 2
    made = run_plan(plan, "generation")
    data = load_dataset(made["dataset/digits"])

    def moments(name: str, images: torch.Tensor) -> FeatureMoments:
        model = load_encoder(made[f"encoder/{name}"], data, "cpu")
        with torch.no_grad():
            features = model.features(to_float(images))
        return FeatureMoments.from_features(features, extractor=name, resolution=8)

    stored = json.loads((made["fdr6_reference/digits"] / "normalisers.json").read_text())
    content = json.dumps(stored["normalisers"], sort_keys=True).encode()
    assert stored["sha256"] == hashlib.sha256(content).hexdigest()
    normalisers = {entry["extractor"]: entry["value"] for entry in stored["normalisers"]}
    train, val = (data.images[data.split(split)] for split in ("train", "val"))
    references = {name: moments(name, train) for name in SPACES}
    for name in SPACES:
        expected = frechet_distance(references[name], moments(name, val))
        assert normalisers[name] == pytest.approx(expected, rel=1e-6)
    for scale in GUIDANCE:
        cells = measurements(made[CELL + scale])
        samples = load_file(made[f"samples/{CELL[11:]}{scale}"] / "shard-00000.safetensors")
        ratios = []
        for name in SPACES:
            distance = frechet_distance(references[name], moments(name, samples["images"]))
            ratios.append(distance / normalisers[name])
            assert cells[f"generation.fdr_{name}"]["value"] == pytest.approx(ratios[-1], rel=1e-5)
        found = cells["generation.fdr6"]
        assert found["value"] == pytest.approx(sum(ratios) / 6, rel=1e-5)
        assert found["stderr"] > 0
        assert (found["n"], found["flags"], found["higher_is_better"]) == (40, [], False)


def test_altered_normalisers_are_refused(workplace: Path) -> None:
    plan = plan_of(study())
    made = run_plan(plan, "fdr6_reference", "samples")
    path = made["fdr6_reference/digits"] / "normalisers.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(ArtifactError, match=r"normalisers\.json"):
        run_plan(plan, "generation")


def test_too_few_samples_are_warned_of_and_flagged(workplace: Path) -> None:
    wide = study()
    wide["encoders"]["judge"] = {"features": 64}
    with pytest.warns(UserWarning, match=r"FDr6: no more images than features in judge \(64\)"):
        made = run_plan(plan_of(wide), "generation")
    assert measurements(made[CELL + "guidance1"])["generation.fdr6"]["flags"] == ["rank-deficient"]
