"""A small study with stand-ins for its scripts and every fourth attempt failing, to its tables."""

from pathlib import Path

from diffusability.artifacts.card import read_card
from diffusability.study.core.merge import merge
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.targets import table_file, table_names
from diffusability.study.reading.load import read_yaml
from diffusability.study.reading.resolve import resolve_study
from tests.cluster.simulation import HERE, create, simulate
from tests.conftest import REPOSITORY


def test_failing_jobs_are_tried_again_until_all_tables_are_there(tmp_path: Path) -> None:
    smoke = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
    study = merge(smoke, {"backbones": {"sit-b": {"gpus": 8}}})
    plan = Plan(resolve_study(study, "study.yaml"))
    workspace = create(tmp_path / "work", study)
    outcome = simulate(workspace, *HERE, "--verbose", "tables", failures=0.25)
    assert outcome.status == 0, outcome.output
    assert outcome.jobs == len(plan) + 3  # tabulate, regress, check_claims
    tables = [workspace.path / table_file(plan.study, name) for name in table_names(plan.study)]
    assert all(table.stat().st_size for table in tables)
    attempts = [int(read_card(workspace.path / artifact.path)["attempts"]) for artifact in plan]
    assert sum(attempts) - len(plan) == outcome.failed_attempts > 0
    assert outcome.driver_mib > 50
    # one look for what to start at the end of every attempt; with its limit of jobs a second there
    # were six times as many here, and the more jobs had ended the more a second
    looks = outcome.output.count("Resources before job selection")
    assert looks < 2 * (outcome.jobs + outcome.failed_attempts)
