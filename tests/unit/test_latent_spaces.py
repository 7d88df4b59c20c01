"""Tokenizers of the second paper through the stages: training, resuming, latents, measurements."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusability.artifacts.job import Job
from diffusability.data.images import to_float
from diffusability.data.load import load_dataset
from diffusability.errors import StudyError, TrainingInterrupted
from diffusability.stages.make import make
from diffusability.study.entries.roles import VAE, VAE_MEANS, role_of
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.reading.load import merge, read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.tokenizers.geometry_preservation import geometry_preservation_loss
from diffusability.tokenizers.load import load_tokenizer
from diffusability.tokenizers.posterior import LOGVAR_RANGE
from diffusability.tokenizers.serpentine import to_vector
from diffusability.tokenizers.vector import VectorAutoencoder
from tests.conftest import REPOSITORY
from tests.unit.study_run import measurements, run_plan

IMAGES = read_yaml(REPOSITORY / "studies" / "fisher_images.yaml")
# its spaces and two more, one training of each
STUDY = {
    **{part: IMAGES[part] for part in ("name", "datasets", "encoders", "bases", "sampling")},
    "tokenizers": {
        **IMAGES["tokenizers"],
        "gpe": {"base": "vector", "method": "gpe"},
        "gpe-noise": {"base": "vector", "method": "gpe", "decoder_noise": 0.1},
        "haar": {"source": "haar", "factor": 2, "channels": 1},
    },
    "backbones": {"dit-xs": IMAGES["backbones"]["dit-xs"]},
    "metrics": {**IMAGES["metrics"], "equivariance": {}},
    "select": {"dataset": "digits"},
}
TRAINED = ("gpe", "vae", "level-8x8")


def plan_of(steps: int, **over: Any) -> Plan:
    """Return the plan of the study with few training steps."""
    short = {"train": {"steps": steps, "batch": 32, "warmup": 0}}
    tiny: dict[str, Any] = {
        "encoders": {"judge": {"width": 4, "features": 8, "train": {"steps": 1}}},
        "bases": {"vector": short, "levels": merge(short, {"network": {"width": 8}})},
        "backbones": {"dit-xs": {"width": 16, "depth": 1, "heads": 2, "train": {"steps": 1}}},
        "sampling": {"evaluations": 3, "count": 20},
        "metrics": {"geometry": {"images": 40}},
    }
    return Plan(resolve_study(merge(merge(STUDY, tiny), over), "test"))


def find(plan: Plan, stage: str, name: str) -> Artifact:
    return next(a for a in plan.of_stage(stage) if a.labels["tokenizer"] == name)


def refused(over: Mapping[str, Any], *reasons: str) -> None:
    with pytest.raises(StudyError) as error:
        plan_of(1, **over)
    for reason in reasons:
        assert reason in str(error.value)


def test_every_space_is_encoded_decoded_and_measured(workplace: Path) -> None:
    plan = plan_of(2)
    made = run_plan(plan, "latents", "geometry")
    data = load_dataset(made["dataset/digits"])
    images = to_float(data.images[data.split("val")[:3]])
    shapes = {"haar": (1, 4, 4), "level-8x8": (1, 8, 8), "level-4x4": (1, 4, 4)}
    shapes |= {"pixels": (1, 8, 8), "pixels-permuted": (1, 8, 8), "level-2x2": (1, 2, 2)}
    assert len(plan.study.tokenizers) == 13
    for name in plan.study.tokenizers:
        shape = shapes.get(name, (2, 4, 4))
        tokenizer = load_tokenizer(made[f"tokenizer/{name}/s0"], data, "cpu")
        posterior = tokenizer.encode(images)
        assert tuple(posterior.mean.shape[1:]) == shape
        assert tokenizer.decode(posterior.mean).shape == images.shape
        stated = json.loads((made[f"latents/{name}/s0"] / "latents.json").read_text())
        assert (tuple(stated["shape"]), stated["finite"]) == (shape, True)
        if name == "vae-means":  # the same means, without noise
            noisy = load_tokenizer(made["tokenizer/vae/s0"], data, "cpu")
            assert torch.equal(posterior.mean, noisy.encode(images).mean)
        certain = bool((posterior.logvar == LOGVAR_RANGE[0]).all())
        assert certain == (name not in ("vae", "ae") and not name.startswith("level"))
        cells = measurements(made[f"geometry/{name}/s0"])
        if name in ("pixels", "pixels-permuted"):
            assert cells["geometry.stretch_ratio"]["value"] == pytest.approx(1, rel=1e-5)
        if name in ("pca", "projection", "haar"):
            assert cells["geometry.stretch_max"]["value"] <= 1 + 1e-6
    # the levels of one network are not trained again
    weights = {p.read_bytes() for p in Path("results/tokenizer").glob("level-*/*/*/*.safetensors")}
    assert len(weights) == 1
    rows = list(csv.DictReader((made["geometry/pixels/s0"] / "spectra.csv").open()))
    assert {(row["order"], row["permuted"]) for row in rows} == {
        (order, permuted) for order in ("grid", "line") for permuted in ("0", "1")
    }


def test_generation_and_equivariance_of_a_vector_and_of_a_level(workplace: Path) -> None:
    plan = plan_of(1, select={"tokenizers": ["pca", "level-2x2"]})
    made = run_plan(plan, "samples", "equivariance", "reconstruction")
    assert "tokenizer/level-8x8/s0" in made  # trained though not selected
    for name in ("pca", "level-2x2"):
        assert (made[f"samples/{name}/s0/dit-xs/s0/guidance1"] / "samples.png").exists()
    cells = measurements(made["equivariance/pca/s0"])
    assert "was made for 8x8 only" in cells["equivariance.scale_error"]["flags"][0]
    assert cells["equivariance.flip_error"]["value"] is not None
    divergence = measurements(made["reconstruction/pca/s0"])["reconstruction.kl"]
    assert divergence["value"] is None


def test_training_reduces_every_loss(workplace: Path) -> None:
    made = run_plan(plan_of(40, select={"tokenizers": list(TRAINED)}), "tokenizer")
    for name in TRAINED:
        rows = list(csv.DictReader((made[f"tokenizer/{name}/s0"] / "history.csv").open()))
        for loss in ("geometry", "reconstruction") if name == "gpe" else ("mse",):
            curve = [float(row[loss]) for row in rows if row[loss]]
            assert len(curve) == 40
            assert sum(curve[-5:]) < 0.7 * sum(curve[:5]), (name, loss)
    data = load_dataset(made["dataset/digits"])
    images = to_float(data.images[data.split("val")])
    gpe = load_tokenizer(made["tokenizer/gpe/s0"], data, "cpu")
    assert isinstance(gpe, VectorAutoencoder)
    vectors = to_vector(gpe.encode(images).mean)
    # scale and centre of the decoder's input, from the training images
    scaled = (vectors - gpe.shift) * gpe.scale
    assert float(scaled.square().mean()) == pytest.approx(1, abs=0.1)
    # the latent has the images' own scale, as the loss asks for
    shrunk = geometry_preservation_loss(images, 0.5 * vectors)
    assert geometry_preservation_loss(images, vectors) < shrunk
    # one image alone has the latent that it has among others
    torch.testing.assert_close(to_vector(gpe.encode(images[:1]).mean), vectors[:1])


@pytest.mark.parametrize("name", ["gpe-noise", "level-8x8"])
def test_resumed_trainings_end_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plan = plan_of(3, select={"tokenizers": [name]})
    artifact = find(plan, "tokenizer", name)
    weights, interruptions = [], 0
    for minutes in (None, 0.0):
        workplace = tmp_path / str(minutes)
        workplace.mkdir()
        monkeypatch.chdir(workplace)
        run_plan(plan, "dataset")
        job = Job.from_json(artifact.job(), minutes=minutes)
        while not Path(artifact.card).exists():
            try:
                with job.writing() as folder:
                    make(job, folder)
            except TrainingInterrupted:
                interruptions += 1
        folder = Path(artifact.path)
        history = (folder / "history.csv").read_text()
        weights.append((load_file(folder / "model.safetensors"), history))
    # the last step of a training is not interrupted
    assert interruptions == (4 if name == "gpe-noise" else 2)
    (whole, curve), (parts, resumed) = weights
    assert curve == resumed
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_means_are_of_a_family_of_their_own_and_of_the_same_cluster() -> None:
    entries = plan_of(1).study.tokenizers
    vae, means = entries["vae"], entries["vae-means"]
    assert (means.family, means.cluster) == (f"{vae.family}-means", vae.cluster)
    assert role_of(vae.family, vae.cluster) == VAE
    assert role_of(means.family, means.cluster) == VAE_MEANS


def test_levels_follow_their_network_alone() -> None:
    plan, wider = plan_of(2), plan_of(2, bases={"levels": {"network": {"width": 16}}})
    for name in plan.study.tokenizers:
        same = find(plan, "latents", name).path == find(wider, "latents", name).path
        assert same == (not name.startswith("level"))


def test_a_classifier_of_one_class_is_refused() -> None:
    one = {"kind": "folder", "path": "photos", "size": 8, "num_classes": 1}
    over = {"datasets": {"photos": one}, "select": {"dataset": "photos"}}
    refused(over, "encoders.judge.kind: a classifier has nothing to learn from the 1 class")


def test_sizes_that_cannot_be() -> None:
    refused(
        {"tokenizers": {"pca": {"channels": 5}}},
        "tokenizers.pca.channels: 5 channels per cell of 2 x 2 pixels are more than the 4 entries",
    )
    refused({"tokenizers": {"pixels": {"channels": 3}}}, "has the image's channels, 1")
    refused({"tokenizers": {"pixels": {"factor": 2}}}, "keeps every pixel, so its factor is 1")
    refused({"tokenizers": {"haar": {"factor": 3}}}, "3 is not a power of two")
    refused({"tokenizers": {"pca": {"factor": 3}}}, "3 does not divide the image size 8")
    vector = {"network": {"multipliers": [1, 1, 1, 1]}}
    refused({"bases": {"vector": vector}}, "4 strided convolutions do not halve the image")
    levels = {"network": {"levels": [1, 2, 8]}}
    refused({"bases": {"levels": levels}}, "[1, 2, 8] do not double")
    refused({"bases": {"levels": {"network": {"factor": 8}}}}, "factor 8 is none of the levels")


def test_entries_that_do_not_fit() -> None:
    level = {"source": "level", "of": "level-8x8", "factor": 2}
    for change, reason in (
        ({"of": "level-8x9"}, "unknown tokenizer `level-8x9` (did you mean `level-8x8`?)"),
        ({"of": "pca"}, "`pca` is not a tokenizer that is trained here"),
        ({"of": "vae"}, "`vae` is not a trained tokenizer of arch hierarchical"),
        ({"factor": 8}, "tokenizers.x.factor: 8 is none of the levels [1, 2, 4]"),
        ({"factor": 2.0}, "tokenizers.x.factor: 2.0 is none of the levels [1, 2, 4]"),
        ({"factor": True}, "tokenizers.x.factor: True is none of the levels [1, 2, 4]"),
        ({"facter": 8}, "tokenizers.x.facter: unknown key"),
    ):
        refused({"tokenizers": {"x": {**level, **change}}}, reason)
    refused({"tokenizers": {"x": {"source": "level"}}}, "the key `of` is required")
    means = {"source": "means", "of": "pca"}
    refused({"tokenizers": {"x": means}}, "`pca` is not a tokenizer that is trained here")
    refused({"tokenizers": {"x": means | {"factor": 2}}}, "tokenizers.x.factor: unknown key")
    refused({"tokenizers": {"x": {"source": "pcs"}}}, "unknown source `pcs`")
    refused({"tokenizers": {"x": {"base": "levels", "method": "gpe"}}}, "method gpe does not fit")
    eq = {"base": "vector", "method": "eq"}
    refused({"tokenizers": {"x": eq}}, "does not fit arch vector, only baseline or gpe does")
    conv = {"arch": "conv", "factor": 1, "channels": 1, "multipliers": [1]}
    x = {"network": conv, "method": "gpe", "train": {"steps": 1}}
    refused({"tokenizers": {"x": x}}, "which only arch vector is")
    x = {"base": "levels", "method": "baseline", "objective": {"gan": 0.5, "gan_start": 0}}
    refused({"tokenizers": {"x": x}}, "objective.gan have no part")
    for base, objective in (
        ("vector", {"kl_balance": True, "kl_warmup": 9}),
        ("levels", {"kl_balance": True, "kl_warmup": 0}),
    ):
        x = {"base": base, "method": "baseline", "objective": objective}
        refused({"tokenizers": {"x": x}}, "objective.kl_warmup steps; it needs both")
    without = {"metrics": {"geometry": None}, "select": {"metrics": ["geometry"]}}
    refused(without, "select.metrics: `geometry` is not declared")
