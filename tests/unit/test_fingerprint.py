"""Fingerprints: what changes them, what does not, and that nothing else can."""

import copy
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from diffusability.errors import StudyError
from diffusability.study.core.fingerprint import canonical_json, derive_seed, fingerprint
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.tables import TABLES
from diffusability.study.reading.load import load_study, merge, read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import Study
from tests.conftest import REPOSITORY

SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")


def by_path(over: dict | None = None) -> dict[str, str]:
    """Return stage/name to fingerprint of the smoke study with `over` laid on top."""
    plan = Plan(resolve_study(merge(SMOKE, over or {}), "test"))
    return {f"{a.stage}/{a.name}": a.fingerprint for a in plan}


def differing(over: dict) -> set[str]:
    """Return the stages of the artifacts that change their name when `over` is laid on top."""
    before, after = by_path(), by_path(over)
    return {k.split("/")[0] for k in before if after.get(k) != before[k]}


def test_hash_is_of_the_canonical_content() -> None:
    assert canonical_json({"b": 1, "a": [1.0, None]}) == '{"a":[1.0,null],"b":1}'
    # printf '{"seed":0,"spec":{},"stage":"s","upstream":{},"version":1}' | sha256sum | head -c 12
    assert fingerprint("s", 1, {}, 0, {}) == "ce064f8421e8"
    assert len({fingerprint("s", v, {}, s, {}) for v in (1, 2) for s in (0, 1)}) == 4
    assert fingerprint("s", 1, {}, 0, {"a": "x"}) != fingerprint("s", 1, {}, 0, {"b": "x"})


def test_seeds_differ_by_every_part_and_fit_torch() -> None:
    seeds = {derive_seed("a", 0), derive_seed("a", 1), derive_seed("b", 0), derive_seed("a0")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_key_order_and_number_spelling_change_nothing() -> None:
    reordered = {key: SMOKE[key] for key in reversed(list(SMOKE))}
    plan = Plan(resolve_study(reordered, "test"))
    assert {f"{a.stage}/{a.name}": a.fingerprint for a in plan} == by_path()
    assert not differing({"bases": {"conv-f2d4": {"train": {"lr": "2e-3"}}}})


def test_labels_that_only_name_things_change_nothing() -> None:
    assert not differing({"name": "other", "report": "other.html"})
    assert not differing({"analysis": {"confidence": 0.9}})


@pytest.mark.parametrize(
    ("over", "stages"),
    [
        (
            {"encoders": {"glyph": {"train": {"steps": 31}}}},
            {"encoder", "tokenizer", "latents", "velocity", "semantics", "spatial", "smoothness"}
            | {"continuity", "uniformity", "equivariance", "reconstruction", "fisher"}
            | {"diffusion", "learned_fisher", "samples", "generation"},
        ),
        (
            {"backbones": {"sit-a": {"depth": 3}}},
            {"diffusion", "learned_fisher", "samples", "generation"},
        ),
        ({"metrics": {"fisher": {"samples": 64}}}, {"pixel_fisher", "fisher"}),
        ({"metrics": {"fisher": {"blocks": 5}}}, {"pixel_fisher", "fisher"}),
        (
            {"metrics": {"fisher": {"variances": [0.1, 1.0]}}},
            {"pixel_fisher", "fisher", "learned_fisher"},
        ),
        ({"metrics": {"fisher": {"learned": {"probes": 2}}}}, {"learned_fisher"}),
        ({"metrics": {"fisher": {"learned": {"seeds": "first"}}}}, set()),
        ({"metrics": {"fisher": {"reference": "conv-base"}}}, set()),
        ({"sampling": {"count": 201}}, {"samples", "generation"}),
        ({"metrics": {"semantics": {"neighbours": [3]}}}, {"semantics"}),
        ({"metrics": {"generation": {"reference": "val"}}}, {"generation"}),
    ],
)
def test_a_change_reaches_its_own_chain(over: dict, stages: set[str]) -> None:
    assert differing(over) == stages


def test_encoder_change_spares_tokenizers_that_do_not_use_it() -> None:
    before, after = by_path(), by_path({"encoders": {"glyph": {"train": {"steps": 31}}}})
    changed = {k for k in before if before[k] != after[k]}
    assert changed
    assert all("conv-base" not in key for key in changed)


def test_renaming_an_encoder_renames_no_tokenizer() -> None:
    study = copy.deepcopy(SMOKE)
    study["encoders"]["renamed"] = study["encoders"].pop("glyph")
    study["tokenizers"]["conv-vf-glyph"]["encoder"] = "renamed"
    plan = Plan(resolve_study(study, "test"))
    after = {f"{a.stage}/{a.name}": a.fingerprint for a in plan if a.stage == "tokenizer"}
    assert after == {k: v for k, v in by_path().items() if k.startswith("tokenizer/")}


def test_everything_follows_what_it_is_made_from() -> None:
    seen: set[str] = set()
    for artifact in Plan(load_study(REPOSITORY / "config.yaml")):
        assert all(upstream.path in seen for upstream in artifact.upstream.values())
        assert artifact.path not in seen
        seen.add(artifact.path)


def test_the_study_layer_needs_no_heavy_package() -> None:
    """Snakemake imports it again in every job."""
    code = (
        "import sys;"
        "from diffusability.study.reading.load import load_study;"
        "from diffusability.study.planning.plan import Plan;"
        "import diffusability.study.planning.targets;"
        "print({'torch', 'numpy', 'pandas', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"


def test_tables_with_other_columns_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(load_study(REPOSITORY / "studies" / "smoke.yaml"))
    before, table = plan.fingerprint, TABLES["noise_floor"]
    monkeypatch.setitem(
        TABLES, "noise_floor", replace(table, columns={**table.columns, "x": "text"})
    )
    assert plan.fingerprint != before
    assert [a.fingerprint for a in plan] == [a.fingerprint for a in Plan(plan.study)]


def test_tables_follow_the_names_of_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(load_study(REPOSITORY / "studies" / "smoke.yaml"))
    before = plan.fingerprint
    monkeypatch.setattr(Study, "aligned_with", lambda self, name: f"renamed-{name}")
    assert plan.fingerprint != before  # tables have a column of them


def test_derived_latents_are_aligned_with_what_they_are_derived_from() -> None:
    means = {"tokenizers": {"means": {"source": "means", "of": "conv-vf-glyph"}}}
    study = load_study(REPOSITORY / "studies" / "smoke.yaml", means)
    assert study.aligned_with("means") == study.aligned_with("conv-vf-glyph") == "glyph"
    assert study.aligned_with("conv-base") == ""


def test_tables_name_their_dataset() -> None:
    renamed = copy.deepcopy(SMOKE)
    name = renamed["select"]["dataset"]
    renamed["datasets"]["other"] = renamed["datasets"].pop(name)
    renamed["select"]["dataset"] = "other"
    before, after = (Plan(resolve_study(study, "test")) for study in (SMOKE, renamed))
    assert [a.fingerprint for a in before.measured] == [a.fingerprint for a in after.measured]
    assert before.fingerprint != after.fingerprint


# how it is made says nothing of what is made
@pytest.mark.parametrize("change", [{}, {"train": {"activation_checkpointing": True}}])
def test_one_tokenizer_under_two_names_is_refused(change: dict[str, Any]) -> None:
    study = copy.deepcopy(SMOKE)
    name = next(iter(study["tokenizers"]))
    study["tokenizers"]["twin"] = merge(study["tokenizers"][name], change)
    with pytest.raises(StudyError, match=f"tokenizers.twin: the same as `{name}`"):
        resolve_study(study, "test")


def test_names_of_encoders_make_no_other_tokenizer() -> None:
    study = copy.deepcopy(SMOKE)
    name = next(n for n, entry in study["tokenizers"].items() if "encoder" in entry)
    entry = study["tokenizers"][name]
    study["encoders"]["twin"] = study["encoders"][entry["encoder"]]
    study["tokenizers"]["other"] = entry | {"encoder": "twin"}
    with pytest.raises(StudyError, match=f"tokenizers.other: the same as `{name}`"):
        resolve_study(study, "test")
