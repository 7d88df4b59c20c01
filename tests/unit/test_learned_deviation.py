"""Deviations of learned Fisher curves from those of the tokenizer that is pixel space."""

import json
from typing import Any

import pytest

from diffusability.analysis.learned_deviation import learned_deviations
from diffusability.analysis.measurements import tabulate
from diffusability.errors import StudyError
from diffusability.fisher.deviation import DEVIATIONS, Rate, fir_deviation
from diffusability.study.planning.plan import Plan
from tests.unit.study_run import measurements, plan_of, run_plan

V = (0.1, 1.0, 10.0)
DIM = {"pixels": 12, "latents": 4}
SHARE = {"fi": 1.0, "fir": 2.0, "mmse_rate": -0.1}


def number(tokenizer: str, name: str, v: float, seed: int = 0) -> float:
    """Return a made-up total."""
    scale = {"pixels": 1.0, "latents": 1.3}[tokenizer] + 0.1 * seed
    return scale * DIM[tokenizer] * (1 + v) ** -SHARE[name]


def rows(pixel_seeds: int = 1, backbones: tuple[str, ...] = ("a",)) -> list[dict[str, Any]]:
    found = []
    for tokenizer in DIM:
        for backbone in backbones if tokenizer == "pixels" else ("a", "b"):
            for seed in range(pixel_seeds if tokenizer == "pixels" else 1):
                for name in SHARE:
                    for v in V:
                        total = number(tokenizer, name, v, seed)
                        options = {"v": v, "dim": DIM[tokenizer], "total": total}
                        options |= {"total_stderr": 0.01 * total}
                        found.append(
                            {
                                **{"tokenizer": tokenizer, "tokenizer_seed": "0"},
                                **{"backbone": backbone, "seed": str(seed), "n": 40},
                                "metric": f"fisher.curve_learned_{name}_v{v:g}",
                                **{"value": 0.0, "stderr": 0.0, "unit": "1", "flags": "noted"},
                                **{"options": json.dumps(options), "fingerprint": tokenizer},
                            }
                        )
    return found


def of(found: list[dict[str, Any]], tokenizer: str, backbone: str = "a") -> dict[str, Any]:
    return {
        row["metric"]: row
        for row in found
        if row["tokenizer"] == tokenizer and row["backbone"] == backbone
    }


def test_pixel_space_deviates_by_nothing() -> None:
    seen = of(learned_deviations(rows(), "pixels"), "pixels")
    assert {f"fisher.learned_{name}" for name in DEVIATIONS} <= set(seen)
    assert all(row["value"] == 0 for row in seen.values())


def test_readings_are_those_of_the_definition_and_scalars_their_mean() -> None:
    seen = of(learned_deviations(rows(), "pixels"), "latents")
    readings = []
    for v in V:
        at = fir_deviation(
            Rate(number("pixels", "fir", v), 12, 0.01 * number("pixels", "fir", v)),
            Rate(number("latents", "fir", v), 4, 0.01 * number("latents", "fir", v)),
            v,
            2,
        )
        for name in ("relative", "scaled", "per_dimension"):
            row = seen[f"fisher.curve_learned_fir_deviation_{name}_v{v:g}"]
            assert row["value"] == pytest.approx(getattr(at, name).value)
            assert row["stderr"] == pytest.approx(getattr(at, name).stderr)
            assert json.loads(row["options"])["v"] == v
        readings.append(at.per_dimension)
        # FI a dimension is 1.3 times that of pixels, the rate as a whole 1.3 / 3
        assert seen[f"fisher.curve_learned_fi_deviation_v{v:g}"]["value"] == pytest.approx(0.3)
        rate = seen[f"fisher.curve_learned_mmse_rate_deviation_v{v:g}"]["value"]
        assert rate == pytest.approx(1 - 1.3 / 3)
    mean = seen["fisher.learned_fir_deviation_per_dimension"]
    weighted = zip((0.25, 0.5, 0.25), readings, strict=True)
    assert mean["value"] == pytest.approx(sum(w * r.value for w, r in weighted))
    assert mean["flags"] == "noted"
    assert mean["higher_is_better"] is False
    assert mean["fingerprint"] == "latents"


def test_the_reference_is_the_mean_over_its_runs() -> None:
    seen = of(learned_deviations(rows(pixel_seeds=3), "pixels"), "latents")
    # scales 1, 1.1 and 1.2 of pixels against 1.3 of latents
    row = seen["fisher.curve_learned_fi_deviation_v1"]
    assert row["value"] == pytest.approx(1.3 / 1.1 - 1)
    relative = (1.0**2 + 1.1**2 + 1.2**2) ** 0.5 / 3 / 1.1 * 0.01
    assert row["stderr"] == pytest.approx(1.3 / 1.1 * (0.01**2 + relative**2) ** 0.5)


def test_a_backbone_without_a_reference_is_declared() -> None:
    found = learned_deviations(rows(backbones=("a",)), "pixels")
    lonely = of(found, "latents", "b")
    assert {f"fisher.learned_{name}" for name in DEVIATIONS} == set(lonely)
    for row in lonely.values():
        assert row["value"] is None
        assert "no model of `pixels` was measured with this backbone" in row["flags"]


def test_all_may_deviate_from_the_models_of_one_backbone() -> None:
    """As the paper's, whose patches differ between pixels and latents."""
    found = learned_deviations(rows(backbones=("a",)), "pixels", "a")
    for backbone in ("a", "b"):
        row = of(found, "latents", backbone)["fisher.curve_learned_fi_deviation_v1"]
        assert row["value"] == pytest.approx(0.3)
        options = json.loads(row["options"])
        assert (options["reference"], options["reference_backbone"]) == ("pixels", "a")
    lonely = of(learned_deviations(rows(backbones=("a",)), "pixels", "c"), "latents")
    assert all("with backbone `c`" in row["flags"] for row in lonely.values())


def test_the_backbone_of_the_reference_is_a_part_of_the_tables_name_only() -> None:
    fisher = {"learned": {}, "reference": "conv-base"}

    def plan(**more: str) -> Plan:
        return plan_of({"metrics": {"fisher": fisher | more}, "select": {"backbones": "all"}})

    before, after = plan(), plan(reference_backbone="sit-a")
    assert [a.fingerprint for a in before] == [a.fingerprint for a in after]
    assert before.fingerprint != after.fingerprint


def test_models_are_measured_where_the_study_asks_for_them() -> None:
    seeds = {"repeats": {"conv-base": {"seeds": [1], "tokenizer_seeds": [1]}}}
    both = {"select": {**seeds, "backbones": "all"}}

    def count(learned: dict[str, Any] | None, **select: Any) -> int:
        metrics = {"fisher": {"learned": learned}}
        over = {"metrics": metrics, "select": {**both["select"], **select}}
        return len(plan_of(over).of_stage("learned_fisher"))

    assert count({}) == 2 * 4
    assert count({"seeds": "first"}) == 2 * 2
    assert count({"backbones": ["sit-a"]}) == 4
    assert count(None) == 0
    assert count({}, metrics=["velocity"]) == 0


@pytest.mark.parametrize(
    ("fisher", "problem"),
    [
        ({"variances": [1.0, 0.1]}, "variances must increase"),
        ({"reference": "conv-bse"}, "did you mean `conv-base`"),
        ({"reference": "conv-base", "learned": None}, "learned is not given"),
        ({"reference_backbone": "sit-a", "learned": {}}, "give both"),
        (
            {"reference": "conv-base", "reference_backbone": "sit-q", "learned": {}},
            "fisher.reference_backbone: .*did you mean `sit-",
        ),
        ({"learned": {"backbones": ["sit-q"]}}, "did you mean `sit-"),
    ],
)
def test_wrong_options_are_named(fisher: dict[str, Any], problem: str) -> None:
    with pytest.raises(StudyError, match=problem):
        plan_of({"metrics": {"fisher": fisher}})


def test_the_perspective_is_measured_tabulated_and_compared(workplace) -> None:
    small = {"variances": [0.1, 1.0], "blocks": 2, "samples": 4, "learned": {"latents": 20}}
    over = {
        "metrics": {"fisher": {**small, "reference": "conv-base"}},
        "select": {"metrics": ["fisher"]},
    }
    plan = plan_of(over)
    made = run_plan(plan, "fisher", "learned_fisher")
    assert sum(name.startswith("pixel_fisher") for name in made) == 1
    assert sum(name.startswith("learned_fisher") for name in made) == 2
    table = tabulate(_Only(plan, "fisher", "learned_fisher"))
    learned = table[table["metric"] == "fisher.learned_fir_deviation_per_dimension"]
    values = dict(zip(learned["tokenizer"], learned["value"], strict=True))
    assert values["conv-base"] == 0
    assert values["conv-vf-glyph"] > 0
    for metric in ("fisher.fir", "fisher.fi_unconditional", "fisher.fir_deviation_scaled"):
        assert set(table.loc[table["metric"] == metric, "tokenizer"]) == set(values)


@pytest.mark.parametrize(
    ("dropout", "measured", "left_out", "reason"),
    [
        (1.0, "_unconditional", "", "the backbone was trained without classes"),
        (0.0, "", "_unconditional", "the backbone was never trained without classes"),
    ],
)
def test_a_model_is_asked_only_for_what_it_was_trained_for(
    workplace, dropout: float, measured: str, left_out: str, reason: str
) -> None:
    small = {"variances": [0.1, 1.0], "blocks": 2, "samples": 4, "learned": {"latents": 20}}
    over = {
        "metrics": {"fisher": small},
        "backbones": {"sit-a": {"class_dropout": dropout}},
        "sampling": {"guidance": [1.0]},
        "select": {"metrics": ["fisher"], "tokenizers": ["conv-base"]},
    }
    made = run_plan(plan_of(over), "learned_fisher")
    (folder,) = (path for name, path in made.items() if name.startswith("learned_fisher"))
    found = measurements(folder)
    assert found[f"fisher.learned_fir{measured}"]["value"] > 0
    curves = [name for name in found if name.startswith("fisher.curve")]
    assert {"uncond" in name for name in curves} == {bool(measured)}
    for name in ("fi", "fir", "mmse_rate"):
        cell = found[f"fisher.learned_{name}{left_out}"]
        assert cell["value"] is None
        (flag,) = cell["flags"]
        assert flag.startswith(f"not applicable: {reason}")


class _Only:
    """The part of a plan whose artifacts were made."""

    def __init__(self, plan: Any, *stages: str) -> None:
        self.study, self.measured = plan.study, plan.of_stage(*stages)
