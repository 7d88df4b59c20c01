"""studies/imagenet256.yaml against Table 1 of the paper and the settings that its text states."""

import csv
import re
from pathlib import Path

import pytest

from diffusability.study.entries.representations import REPRESENTATIONS
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.entries.vision_models import FACTS
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight.cost import Costs
from diffusability.study.reading.load import load_study
from diffusability.study.study import Study
from tests.conftest import REPOSITORY

TABLE = Path(__file__).parents[1] / "data" / "table1_tokenizers.csv"
ARCHITECTURES = {"conv": "conv", "vit": "transformer"}
OBJECTIVE = {"l1": 1.0, "perceptual": 1.0, "gan": 0.5, "kl": 1e-6}  # Eq. 12
BACKBONES = {  # steps, batch, learning rate, second moment of Adam
    "sit-b": ("sit", 768, 12, 400_000, 256, 1e-4, 0.999),
    "sit-xl": ("sit", 1152, 28, 80_000, 256, 1e-4, 0.999),
    "lightningdit-b": ("lightningdit", 768, 12, 100_000, 1024, 2e-4, 0.95),
    "lightningdit-xl": ("lightningdit", 1152, 28, 100_000, 1024, 2e-4, 0.95),
}


@pytest.fixture(scope="module")
def study() -> Study:
    """The paper's study."""
    return load_study(REPOSITORY / "studies" / "imagenet256.yaml")


def variant(study: Study, spec: TokenizerSpec) -> str:
    """Return what Table 1 would print for a tokenizer, from its resolved options alone."""
    options = spec.regularizer
    match options.method:
        case "repa" | "mcos" | "mdms" | "mcos+mdms":
            encoder = study.encoders[options.encoder]
            assert encoder.kind == "vision"
            return encoder.model
        case "eq":
            (operator,) = options.operators
            return operator
        case "lcr":
            return f"w{options.weight:.2f}-th{options.threshold:.2f}"
        case "lmr":
            first, second, third = options.probabilities
            return f"p{first:g}-{second:.2f}-{third:.2f}"
        case "mae":
            return f"r{options.ratio:g}"
    return ""


def test_the_86_rows_of_table_1(study: Study) -> None:
    with TABLE.open() as file:
        wanted = [tuple(row.values()) for row in csv.DictReader(file)]
    found = []
    for number, name in enumerate(study.selected_tokenizers, start=1):
        spec = study.tokenizers[name]
        assert isinstance(spec, TokenizerSpec)
        network = spec.network
        latent = f"f{network.factor}d{network.channels}"
        row = (str(number), ARCHITECTURES[network.arch], latent, spec.cluster, variant(study, spec))
        found.append(row)
    assert len(found) == 86
    for row, (number, architecture, latent, cluster, printed) in zip(found, wanted, strict=True):
        assert row == (number, architecture, latent, cluster, row[4])
        assert row[4].lower() == printed.lower()  # the models' names are spelled in lower case


def test_names_say_what_the_entries_are(study: Study) -> None:
    for name, spec in study.tokenizers.items():
        assert isinstance(spec, TokenizerSpec)
        of_variant = variant(study, spec)
        if spec.cluster in ("repa", "mcos", "mdms", "mcos+mdms"):
            of_variant = of_variant.replace("-", "")
        assert name == "-".join(part for part in (spec.family, spec.cluster, of_variant) if part)


def test_every_tokenizer_is_trained_alike(study: Study) -> None:
    for spec in study.tokenizers.values():
        assert isinstance(spec, TokenizerSpec)
        assert {key: getattr(spec.objective, key) for key in OBJECTIVE} == OBJECTIVE
        assert spec.train.steps * spec.train.batch == pytest.approx(16 * 1_281_167, rel=1e-5)
    networks = {spec.network for spec in study.tokenizers.values()}  # type: ignore[union-attr]
    assert len(networks) == 3


def test_backbones_and_sampling_as_in_the_paper(study: Study) -> None:
    found = {}
    for name, spec in study.backbones.items():
        train = spec.train
        found[name] = (
            *(spec.arch, spec.width, spec.depth),
            *(train.steps, train.batch, train.lr, train.betas[1]),
        )
        assert spec.patch == 1
    assert found == BACKBONES
    sampling = study.sampling
    assert (sampling.solver, sampling.evaluations, sampling.count) == ("euler", 50, 50_000)
    assert (min(sampling.guidance), max(sampling.guidance)) == (1.0, 3.0)
    guided = {name: len(sampling.scales(name)) > 1 for name in study.backbones}
    assert guided == {name: name.endswith("-b") for name in study.backbones}


def test_86_chains_are_planned_without_data(study: Study) -> None:
    plan = Plan(study)
    counts = {stage: len(plan.of_stage(stage)) for stage in ("tokenizer", "latents", "diffusion")}
    assert counts == {"tokenizer": 86, "latents": 86, "diffusion": 86 * 4}
    assert len(plan.of_stage("samples")) == 86 * (2 * len(study.sampling.guidance) + 2)
    encoders = {artifact.labels["encoder"] for artifact in plan.of_stage("encoder")}
    assert encoders == {*FACTS, "inception", "lpips", *REPRESENTATIONS}


def test_what_the_page_says_of_the_cost(study: Study) -> None:
    text = " ".join((REPOSITORY / "docs" / "reproduce.md").read_text().split())
    plan, costs = Plan(study), Costs(study)
    hours = sum((costs.work(artifact).seconds or 0.0) for artifact in plan) / 3600
    said = re.search(r"counts about ([\d,]+) hours", text)
    assert said is not None
    assert float(said[1].replace(",", "")) == pytest.approx(hours, rel=0.01)


def test_real_images_are_seen_once_and_not_by_every_job(study: Study) -> None:
    plan = Plan(study)
    (reference,) = plan.of_stage("generation_reference")  # one for 86 x 4 x 7 sets of samples
    assert reference.spec["compared"] == 10_000
    assert all(a.upstream["reference"] is reference for a in plan.of_stage("generation"))


def test_fdr6_in_the_six_spaces_of_its_paper(study: Study) -> None:
    names = study.metrics.generation.fdr6
    assert names == ("inception", *REPRESENTATIONS)
    assert [study.encoders[name].kind for name in names] == ["inception", *["representation"] * 5]
    assert all(study.encoders[name].model == name for name in names[1:])  # type: ignore[union-attr]
    plan = Plan(study)
    (reference,) = plan.of_stage("fdr6_reference")  # one for 86 x 4 x 7 sets of samples
    assert reference.spec["reference_content"] == "VIRTUAL_imagenet256_labeled.npz"
    assert all(a.upstream["fdr6"] is reference for a in plan.of_stage("generation"))
