"""studies/shapes-small.yaml: what makes it a study that can tell tokenizers apart."""

from collections import Counter

from diffusability.study.load import load_study
from diffusability.study.plan import Plan
from tests.conftest import REPOSITORY

STUDY = load_study(REPOSITORY / "studies" / "shapes-small.yaml")


def test_every_method_two_families_two_backbones_three_seeds() -> None:
    entries = [STUDY.tokenizers[name] for name in STUDY.selected_tokenizers]
    assert len(entries) >= 24
    methods = {entry.regularizer.method for entry in entries}
    paper = load_study(REPOSITORY / "studies" / "shapes.yaml")
    assert methods == {entry.regularizer.method for entry in paper.tokenizers.values()}
    assert min(Counter(entry.network.family for entry in entries).values()) >= 12
    plan = Plan(STUDY)
    runs = Counter(
        (a.labels["tokenizer"], a.labels["backbone"])
        for a in plan.of_stage("generation")
        if a.labels["tokenizer_seed"] == "0"
    )
    assert set(runs.values()) == {3}
    assert len(runs) == 2 * len(entries)
    retrained = {a.labels["tokenizer"] for a in plan.of_stage("tokenizer") if a.seed}
    assert len(retrained) == 3


def test_latents_are_over_complete_and_references_as_many_as_samples() -> None:
    data = STUDY.dataset
    for name in STUDY.selected_tokenizers:
        network = STUDY.tokenizers[name].network
        assert network.channels * (data.size // network.factor) ** 2 > 3 * data.size**2
    assert STUDY.metrics.generation.reference == "val"
    assert STUDY.sampling.count == data.val
