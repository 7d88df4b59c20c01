"""What a finished study expects of a scored latent space, and what moved its metrics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api

from diffusability.scoring import expected as expected_module
from diffusability.scoring.advice import advice, method_effects
from diffusability.scoring.against import read_known
from diffusability.scoring.expected import Expected, FinishedStudy, Space, expected
from diffusability.scoring.table import Score
from tests.unit.measurement_table import measurement_table

HERE = Space("d1", (4, 8, 8), {"velocity": {"split": "val"}, "semantics": {"k": 5}})
TYPICAL = {"velocity.viv": 0.1, "semantics.lnc5": -0.1}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return measurement_table(24, backbones=("sit-b",))


@pytest.fixture
def ask(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    table.to_csv(tmp_path / "measurements.csv", index=False)

    def ask(
        values: dict[str, float], name="mine", known: Space | None = HERE, **mine: Any
    ) -> Expected:
        monkeypatch.setattr(FinishedStudy, "space", lambda self, family: known)
        cells = [
            {"metric": metric, "value": value, "stderr": None, "n": 1, "unit": "1"}
            | {"higher_is_better": None, "options": {}, "flags": []}
            for metric, value in values.items()
        ]
        spaces = {name: replace(HERE, **mine)}
        (found,), reason = expected([Score(name, cells, {})], spaces, str(tmp_path))
        assert reason == ""
        return found

    return ask


def test_a_number_with_its_interval_and_error(ask) -> None:
    found = ask(TYPICAL)
    assert 0 < found.low < found.value < found.high
    assert ask({**TYPICAL, "velocity.viv": 1.0}).value > found.value  # the target is a distance
    assert found.metrics == "VIV"  # LNC adds nothing, the others were not measured here
    assert "80 % interval" in found.sentence
    assert f"missed by a factor of {found.error_factor:.2f}" in found.sentence


def test_a_tokenizer_of_the_study_is_predicted_without_its_cluster(ask, table) -> None:
    found = ask(TYPICAL, name="t00")
    assert found.n == 20  # of 24 in six clusters
    own = table[(table["tokenizer"] == "t00") & (table["metric"] == "generation.fd_judge")]
    measured = own[own["tokenizer_seed"] == 0]["value"].mean()
    assert f"measured is {measured:.4g}"[:13] in found.sentence
    assert "Its own cluster is not in the fit" in found.sentence


def test_one_of_several_seeds_is_predicted_without_its_cluster(ask) -> None:
    assert replace(ask(TYPICAL, name="t00/s1"), latents="t00") == ask(TYPICAL, name="t00")


def test_a_tokenizer_of_the_study_is_predicted_from_its_own_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = 6 * ("conv-f2d4",) + 6 * ("trans-f2d4",)  # every cluster in both
    table = measurement_table(48, backbones=("sit-b",), families=families)
    table.to_csv(tmp_path / "measurements.csv", index=False)
    monkeypatch.setattr(FinishedStudy, "space", lambda self, family: HERE)  # of one shape
    cells = [{"metric": m, "value": v, "flags": []} for m, v in TYPICAL.items()]
    found = {}
    conv, trans = "conv-f2d4", "trans-f2d4"
    for name, family in (("t00", conv), ("t06", trans), ("mine", trans)):
        space = {name: replace(HERE, family=family)}
        ((found[name],), _) = expected([Score(name, cells, {})], space, str(tmp_path))
        assert found[name].family == family
    left_out = ["Its own cluster is not in the fit" in each.note for each in found.values()]
    assert left_out == [True, True, False]
    assert found["t06"].n < found["mine"].n == 24
    # a family that the study does not have: a number from each that is alike
    foreign = {"mine": replace(HERE, family="vae-f2d4")}
    both, _ = expected([Score("mine", cells, {})], foreign, str(tmp_path))
    assert [item.family for item in both] == [conv, trans]


def test_what_the_study_left_out_is_neither_in_the_fit_nor_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = measurement_table(24, backbones=("sit-b",))
    table.to_csv(tmp_path / "measurements.csv", index=False)
    monkeypatch.setattr(FinishedStudy, "space", lambda self, family: HERE)
    cells = [{"metric": m, "value": v, "flags": []} for m, v in TYPICAL.items()]

    def n(name: str) -> tuple[int, str]:
        ((found,), _) = expected([Score(name, cells, {})], {name: HERE}, str(tmp_path))
        return found.n, found.note

    assert n("mine") == (24, "")
    judged = pd.DataFrame({"tokenizer": ["t00", "t01"], "comparable": [False, True]})
    judged.assign(reason=["PSNR 20 dB", ""]).to_csv(tmp_path / "tokenizers.csv", index=False)
    assert n("mine") == (23, "")
    assert n("t00") == (0, "the study compares it with no other: PSNR 20 dB")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"known": None}, "the results of the study are not beside its table"),
        ({"dataset": "d2"}, "its images are not known to be those of the study"),
        ({"shape": (16, 8, 8)}, "its latents are 16 x 8 x 8, those of the study 4 x 8 x 8"),
        ({"options": {"velocity": {"split": "all"}}}, "no headline metric was measured as in the"),
        ({"values": {**TYPICAL, "velocity.viv": 50.0}}, "outside the study's range"),
    ],
)
def test_outside_of_its_support_there_is_no_number(ask, asked, reason) -> None:
    found = ask(**({"values": TYPICAL} | asked))
    assert found.value is None
    assert reason in found.sentence
    assert found.sentence.startswith("mine: no prediction of Fréchet distance (judge) of sit-b")


def test_a_bound_predicts_nothing(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_module, "difference", lambda m, other: "a bound")
    assert "no headline metric was measured as in the study" in ask(TYPICAL).sentence


def test_a_study_that_cannot_predict_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(FinishedStudy, "space", lambda self, family: HERE)
    scores = [Score("mine", [], {})]

    def asked(table: pd.DataFrame) -> tuple[list[Expected], str]:
        table.to_csv(tmp_path / "measurements.csv", index=False)
        return expected(scores, {"mine": HERE}, str(tmp_path))

    few = measurement_table(4, seeds=1, backbones=("sit-b",))
    cells = {"metric": "velocity.viv", "value": 0.1, "flags": []}
    scores[0] = Score("mine", [cells], {})
    assert "the study cannot predict: 4 clusters are too few" in asked(few)[0][0].sentence
    plain = few[~few["metric"].str.startswith(("generation", "trajectory"))]
    nothing = "no prediction: the table has no generated images"
    assert asked(plain)[1].startswith(nothing)
    assert expected(scores, {"mine": HERE}, "fashion")[1].startswith(nothing)
    rng = np.random.default_rng(0)
    table = measurement_table(24, backbones=("sit-b",))
    generated = table["metric"] == "generation.fd_judge"
    table.loc[generated, "value"] = rng.uniform(50, 100, generated.sum())
    (found,) = asked(table)[0]
    assert "the study cannot predict: without one cluster, its metrics" in found.sentence


def test_results_beside_the_table_say_how_it_was_measured(tmp_path: Path, monkeypatch) -> None:
    card = {"spec": {"split": "val"}, "upstream": {"dataset": {"fingerprint": "d1"}}}
    card["upstream"]["latents"] = {"path": "results/latents/t00/s0/abc"}
    seen = []

    def read_card(path: Path) -> dict[str, Any]:
        seen.append(path.relative_to(tmp_path).as_posix())
        return card

    monkeypatch.setattr(expected_module, "read_card", read_card)
    (tmp_path / "results/latents/t00/s0/abc").mkdir(parents=True)
    (tmp_path / "results/latents/t00/s0/abc/latents.json").write_text('{"shape": [4, 8, 8]}')
    table = measurement_table(8, backbones=("sit-b",))
    study = FinishedStudy(table, tmp_path)
    space = study.space("conv-f2d4")
    assert space is not None
    assert (space.dataset, space.shape) == ("d1", (4, 8, 8))
    assert space.options["velocity"] == {"split": "val"}
    assert "results/velocity/t00/s0/0-0" in seen
    tables = tmp_path / "results/tables/made"
    tables.mkdir(parents=True)
    table.to_csv(tables / "measurements.csv", index=False)
    assert read_known(str(tables)).images == "d1"
    table.to_csv(tmp_path / "measurements.csv", index=False)  # away from its results
    monkeypatch.undo()
    assert read_known(str(tmp_path)).images == ""


def methods(**values: list[float]) -> pd.DataFrame:
    rows = [
        {"tokenizer": f"{name}{k}", "family": f"f{k % 2}", "cluster": name, "value": value}
        | {"metric": "velocity.viv"}
        for name, own in values.items()
        for k, value in enumerate(own)
    ]
    return pd.DataFrame(rows)


def test_advice_names_a_method_only_beyond_the_spread_within_methods() -> None:
    rows = methods(
        baseline=[1.0, 2.0, 1.1, 2.1], repa=[0.5, 1.5, 0.6, 1.6], eq=[1.02, 2.1, 1.05, 2.05]
    )
    (sentence,) = advice(rows)
    assert sentence == (
        "VIV (velocity ambiguity): moved from 1.55 of the baseline by repa (-0.5 ± 0.04); "
        "of 1 other it cannot be told"
    )
    effects, freedom = method_effects(rows)  # type: ignore[misc]
    assert freedom == 12 - 2 - 2
    gaps = {effect.method: effect.gap for effect in effects}
    assert gaps == pytest.approx({"repa": -0.5, "eq": 0.005})  # balanced: differences of means
    fit = statsmodels.formula.api.ols(
        "value ~ C(family) + C(cluster, Treatment('baseline'))", rows
    ).fit()
    assert effects[0].stderr == pytest.approx(fit.bse.iloc[2])
    assert fit.params.index[2].endswith("[T.eq]")


def test_advice_says_when_nothing_can_be_told() -> None:
    assert "none of 1 methods moves it" in advice(methods(baseline=[1, 2, 3], eq=[3, 2, 1]))[0]
    assert "too few tokenizers per method" in advice(methods(baseline=[1.0], eq=[3.0]))[0]
    assert advice(methods(eq=[3.0, 1.0])) == []
    assert advice(methods(baseline=[1.0, 2.0]).drop(columns="cluster")) == []
