"""The workflow runs from any directory and as a module of another Snakefile."""

import re
import shutil
from pathlib import Path

import pytest

from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study, read_yaml
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace

SMOKE = REPOSITORY / "studies" / "smoke.yaml"
MODULE = """
{configfile}
module diffusability:
    snakefile: "{snakefile}"
    {config}

use rule * from diffusability as d_*
"""


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the workflow, in which nothing is run. Its name has a space."""
    return Workspace.create(tmp_path_factory.mktemp("elsewhere") / "the workflow")


@pytest.fixture
def user(tmp_path: Path) -> Workspace:
    """An empty folder but for a study in any/where.yaml."""
    (tmp_path / "any").mkdir()
    shutil.copy(SMOKE, tmp_path / "any" / "where.yaml")
    return Workspace(tmp_path)


def count(output: str, rule: str) -> int:
    """Return how many jobs of a rule a dry-run counts."""
    found = re.search(rf"^{rule} +(\d+)$", output, re.MULTILINE)
    return int(found[1]) if found else 0


def test_from_another_directory(flow: Workspace, user: Workspace) -> None:
    planned = user.run(
        *("snakemake", "-s", f"{flow.path}/Snakefile", "--directory", "work", "-n"),
        *("--configfile", "any/where.yaml"),
    ).stdout
    assert count(planned, "train_tokenizer") == 2
    assert f"workflow specific profile {flow.path}/profiles/default" in planned
    default = user.run("snakemake", "-s", f"{flow.path}/Snakefile", "-n").stdout
    study = load_study(flow.path / "config.yaml")
    assert count(default, "train_tokenizer") == len(Plan(study).of_stage("tokenizer"))


def test_jobs_run_there_and_moving_the_workflow_makes_none_again(
    user: Workspace, tmp_path: Path
) -> None:
    flow = Workspace.create(tmp_path / "flow")
    (dataset,) = Plan(load_study(SMOKE)).of_stage("dataset")

    def command(folder: str, study: str) -> list[str]:
        words = ["snakemake", "-s", f"{folder}/Snakefile", "--directory", "work", "-c1"]
        return [*words, "--configfile", f"{study}/where.yaml", "--", dataset.card]

    user.run(*command("flow", "any"))
    assert (user.path / "work" / dataset.card).exists()
    assert {p.name for p in (user.path / "work").iterdir()} == {"results", ".snakemake"}
    assert not (flow.path / "results").exists()
    flow.path.rename(tmp_path / "moved")
    (user.path / "any").rename(user.path / "other")
    assert "Nothing to be done" in user.run(*command("moved", "other")).stdout


@pytest.mark.release
def test_an_error_names_the_whole_command(flow: Workspace, user: Workspace) -> None:
    plan = Plan(load_study(SMOKE))
    command = ["snakemake", "-s", f"{flow.path}/Snakefile", "--configfile", "any/where.yaml"]
    (dataset,) = plan.of_stage("dataset")
    user.run(*command, "-c1", "--", dataset.card)
    manifest = user.path / dataset.path / "manifest.json"
    manifest.write_text("{}")
    encoder = plan.of_stage("encoder")[0]
    failed = user.run(*command, "-c1", "--", encoder.card, check=False).stdout
    found = re.search(r"Make it again with: (snakemake .*)", failed)
    assert found, failed
    assert found[1] == (
        f"snakemake -c1 -f {dataset.card} --snakefile '{flow.path}/Snakefile' "
        "--configfile any/where.yaml"
    )
    user.run("bash", "-c", found[1])
    assert manifest.read_text() != "{}"


def test_as_a_module_with_the_study_as_its_config(flow: Workspace, user: Workspace) -> None:
    text = MODULE.format(
        snakefile=flow.path / "Snakefile",
        configfile='configfile: "my.yaml"',
        config='config: config["spaces"]',
    )
    (user.path / "Snakefile").write_text(text)
    user.write_study({"spaces": read_yaml(SMOKE)}, "my.yaml")
    output = user.run("snakemake", "-n", "d_all").stdout
    assert count(output, "d_train_tokenizer") == 2
    (dataset,) = Plan(load_study(SMOKE)).of_stage("dataset")
    user.run("snakemake", "-c1", dataset.card)
    # and scripts that resolve the whole study get it, too: nothing is there to tabulate
    planned = user.run("snakemake", "-n", "-p", "d_tables").stdout
    script = r"python -m diffusability\.script tabulate_measurements\.py .*?(?= &> )"
    (command,) = re.findall(script, planned)
    where = f"DIFFUSABILITY_WORKFLOW={flow.path}"
    output = user.run("env", where, "bash", "-c", command, check=False).stdout
    assert "no such artifact" in output


def test_as_a_module_with_a_study_file(flow: Workspace, user: Workspace) -> None:
    text = MODULE.format(snakefile=flow.path / "Snakefile", configfile="", config="")
    (user.path / "Snakefile").write_text(text)
    output = user.run("snakemake", "-n", "d_tables", "--configfile", "any/where.yaml").stdout
    assert count(output, "d_train_tokenizer") == 2
    assert count(output, "d_regress") == 1


def test_toy_study_from_elsewhere(flow: Workspace, user: Workspace) -> None:
    output = user.run("snakemake", "-s", f"{flow.path}/Snakefile", "-n", "fisher_toy").stdout
    assert count(output, "measure_fisher_toy") == 67
    assert count(output, "check_fisher_claims") == 1


def test_no_study_but_the_given_one_is_read(tmp_path: Path) -> None:
    flow = Workspace.create(tmp_path / "flow")
    for study in [flow.path / "config.yaml", *(flow.path / "studies").glob("*.yaml")]:
        study.write_text("tokenizers: [of no use]\n")
    shutil.copy(SMOKE, flow.path / "mine.yaml")
    assert "train_tokenizer" in flow.planned(study="mine.yaml")
    broken = flow.run("snakemake", "-n", "fisher_toy", "--configfile", "mine.yaml", check=False)
    assert broken.returncode != 0
    assert "studies/fisher_toy.yaml: name: Field required" in broken.stdout


def test_a_missing_study_is_named(flow: Workspace) -> None:
    direct = flow.run("diffusability", "ls", "--configfile", "nowhere.yaml", check=False).stdout
    assert "nowhere.yaml: no such study file" in direct
    assert "are in studies" in direct
