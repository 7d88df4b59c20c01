"""Cards that were damaged or edited, of artifacts and of tables: found, named, and no traceback."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusability.analysis.frames import write_table
from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.card import read_card, verified
from diffusability.artifacts.gc import find_garbage
from diffusability.artifacts.inventory import damage, folder_of, is_done, lost
from diffusability.artifacts.job import Job
from diffusability.artifacts.result_card import (
    check_result,
    hashes,
    result_problems,
    write_result_card,
)
from diffusability.cli import main
from diffusability.errors import ArtifactError
from diffusability.report.doubts import damaged_images
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import CARD, STAGES
from diffusability.study.planning.targets import table_file, table_names
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import measurement_table

SMOKE = str(REPOSITORY / "studies" / "smoke.yaml")


@pytest.fixture
def plan(workplace: Path) -> Plan:
    """The smoke study with dataset and encoders made."""
    plan = Plan(load_study(SMOKE))
    for artifact in plan.of_stage("dataset", "encoder"):
        with Job.from_json(artifact.job()).writing() as folder:
            for name in STAGES[artifact.stage].outputs:
                (folder / name).write_text("{}")
    return plan


def edited(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda card: card | {key: value}


OTHER = {"stage": "dataset", "fingerprint": "0" * 12, "path": "../../etc/000000000000"}
HARM: dict[str, Callable[[dict[str, Any]], Any]] = {
    "null": lambda card: None,
    "number": lambda card: 5,
    "text": lambda card: "x",
    "list": lambda card: [],
    "empty": lambda card: {},
    "outputs null": edited("outputs", None),
    "outputs empty": edited("outputs", {}),
    "output null": edited("outputs", {"model.safetensors": None}),
    "output outside": lambda card: card | {"outputs": card["outputs"] | {"../x": {}}},
    "hash a number": edited("outputs", {"model.safetensors": {"sha256": 3, "bytes": 2}}),
    "stage unknown": edited("stage", "xx"),
    "stage a list": edited("stage", []),
    "fingerprint": edited("fingerprint", "0" * 12),
    "spec": lambda card: card | {"spec": card["spec"] | {"lr": 0.5}},
    "spec NaN": lambda card: card | {"spec": card["spec"] | {"lr": float("nan")}},
    "seed": lambda card: card | {"seed": card["seed"] + 1},
    "seed true": edited("seed", True),
    "name": edited("name", "other"),
    "upstream gone": edited("upstream", {}),
    "upstream outside": edited("upstream", {"dataset": OTHER}),
    "upstream a text": edited("upstream", {"dataset": "x"}),
    "version": edited("version", 99),
    "seconds null": edited("seconds", None),
    "machine null": edited("machine", None),
    "started too late": edited("started", 1e300),
    "attempts a text": edited("attempts", "1"),
    **{
        f"without {key}": lambda card, key=key: {k: v for k, v in card.items() if k != key}
        for key in ("stage", "outputs", "fingerprint", "spec", "upstream", "machine", "name")
    },
}


@pytest.mark.parametrize("harm", HARM)
def test_a_harmed_card_is_found(plan: Plan, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = plan.of_stage("encoder")[0]
    path = Path(artifact.path)
    path.joinpath(CARD).write_text(json.dumps(HARM[harm](read_card(path))))
    (problem, *_) = damage(path)
    assert problem.startswith(artifact.path)
    assert f"snakemake -c1 -f {artifact.card}" in problem
    with pytest.raises(ArtifactError):
        verified(path, artifact.stage, artifact.fingerprint)
    is_done(artifact)
    for command in (["ls"], ["plan"], ["why", artifact.path]):
        assert main([command[0], "--configfile", SMOKE, *command[1:]]) in (0, 1)
    capsys.readouterr()
    assert main(["verify", "--configfile", SMOKE]) == 1
    assert artifact.path in capsys.readouterr().out


def test_verify_takes_a_folder_of_artifacts(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--configfile", SMOKE, "results/encoder"]) == 0
    count = len(plan.of_stage("encoder"))
    assert f"{count} artifacts verified, 0 problems" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00", '{"a": 1e999}'])
def test_a_card_that_is_not_json_is_found(plan: Plan, text: str) -> None:
    path = Path(plan.of_stage("encoder")[0].path)
    (path / CARD).write_text(text)
    (problem,) = damage(path)
    assert problem.startswith(f"{path / CARD}: damaged provenance card")


def test_an_artifact_deleted_as_a_whole_is_found(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not lost(plan)
    (dataset,) = plan.of_stage("dataset")
    shutil.rmtree(dataset.path)
    assert main(["verify", "--configfile", SMOKE]) == 1
    assert f"{dataset.path}: is missing, although" in capsys.readouterr().out


@pytest.fixture
def table(workplace: Path) -> Path:
    """A table made from another, with its card."""
    source = Path("results/tables/smoke/measurements.csv")
    source.parent.mkdir(parents=True)
    source.write_text("a\n1\n")
    table = source.with_name("correlations.csv")
    inputs = hashes([source])
    table.write_text("b\n2\n")
    write_result_card([table], inputs, "smoke", "0" * 12)
    write_result_card([source], {}, "smoke", "0" * 12)
    return table


def test_an_edited_table_is_found(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--configfile", SMOKE]) == 0
    assert "2 cards of tables, figures and reports, 0 problems" in capsys.readouterr().out
    check_result(table)
    before = table.stat()
    table.write_text("b\n3\n")
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match=f"{table}: was altered after it was made"):
        check_result(table)
    assert main(["verify", "--configfile", SMOKE]) == 1
    said = capsys.readouterr().out
    assert f"{table}: was altered" in said
    assert f"--configfile {SMOKE}" in said


def test_show_refuses_an_edited_table(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measurements = table.with_name("measurements.csv")
    measurements.write_text("a\n2\n")
    for name in table_names(load_study(SMOKE)):
        table.with_name(f"{name}.csv").touch()
    assert main(["show", "--configfile", SMOKE]) == 1
    assert f"{measurements}: was altered after it was made" in capsys.readouterr().err


@pytest.mark.usefixtures("workplace")
def test_show_refuses_tables_of_another_analysis(capsys: pytest.CaptureFixture[str]) -> None:
    """As where Snakemake's records of what changed are lost, or are another working copy's."""
    plan = Plan(load_study(SMOKE))
    prints = [artifact.fingerprint for artifact in plan.measured]
    frame = measurement_table(4)
    frame["fingerprint"] = [prints[row % len(prints)] for row in range(len(frame))]
    tables = [Path(table_file(plan.study, name)) for name in table_names(plan.study)]
    for path in tables:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_table(tables[0].with_name("measurements.csv"), frame)
    write_result_card(tables, {}, "smoke", "0" * 12)
    assert main(["show", "--configfile", SMOKE]) == 1
    said = capsys.readouterr().err
    assert "was made for another state of the study" in said
    assert "-R tabulate" in said


def test_a_table_made_from_another_state_is_found(table: Path) -> None:
    source = table.with_name("measurements.csv")
    source.write_text("a\n5\n")
    write_result_card([source], {}, "smoke", "0" * 12)
    card = table.parent / "provenance" / "correlations.csv.json"
    (problem,) = result_problems(card)
    assert f"{table}: was made from another {source}" in problem
    source.unlink()
    assert "is missing, although" in result_problems(card)[0]
    table.unlink()
    assert f"{table}: is missing" in result_problems(card)[0]


def test_tables_that_were_copied_alone_are_right(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result_card([table], {"results/fdr6/a/measurements.json": "0" * 64}, "smoke", "0" * 12)
    assert main(["verify", "--configfile", SMOKE]) == 0
    assert "no artifacts here that tables could be compared with" in capsys.readouterr().out
    table.write_text("b\n3\n")
    assert main(["verify", "--configfile", SMOKE]) == 1


@pytest.mark.parametrize("text", ["", "null", "[]", '{"outputs": 3}'])
def test_a_damaged_card_of_a_table_is_named(table: Path, text: str) -> None:
    card = table.parent / "provenance" / "correlations.csv.json"
    card.write_text(text)
    (problem,) = result_problems(card)
    assert problem.startswith(f"{card}: damaged card")
    with pytest.raises(ArtifactError, match="damaged card"):
        check_result(table)


def test_hashes_of_artifacts_come_from_their_cards(plan: Plan) -> None:
    encoder = plan.of_stage("encoder")[0]
    file = Path(encoder.path, "history.csv")
    (found,) = hashes([file]).values()
    assert found == read_card(file.parent)["outputs"]["history.csv"]["sha256"]
    write_json(Path("results/x.json"), {})
    assert list(hashes([Path("results/x.json"), Path("results/none")])) == ["results/x.json"]


def test_what_was_made_under_an_earlier_name_is_found(plan: Plan, tmp_path: Path) -> None:
    text = Path(SMOKE).read_text().replace("glyph", "sign").replace("dataset: digits", "dataset: d")
    (tmp_path / "renamed.yaml").write_text(text.replace("\n  digits: {", "\n  d: {"))
    renamed = Plan(load_study(tmp_path / "renamed.yaml"))
    before = {artifact.fingerprint: artifact.path for artifact in plan}
    for artifact in renamed.of_stage("dataset", "encoder"):
        assert folder_of(artifact) == Path(before[artifact.fingerprint])
    assert {a.path for a in renamed.of_stage("dataset", "encoder")} != set(before.values())
    assert not lost(renamed)
    assert damaged_images(renamed) == {}  # a report opens the manifest
    assert not [item.path for item in find_garbage({a.path for a in renamed})]
    (dataset,) = plan.of_stage("dataset")
    shutil.rmtree(dataset.path)
    (absent,) = renamed.of_stage("dataset")
    assert folder_of(absent) == Path(absent.path)
