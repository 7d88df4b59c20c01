"""What runs again after a change, rule by rule and wildcard by wildcard: no more, no less."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusability.study.planning.targets import figure_names
from diffusability.study.reading.load import load_study, read_yaml
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Jobs, Workspace

SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
FIGURE_NAMES = figure_names(load_study(REPOSITORY / "studies" / "smoke.yaml"))
TABLES: Jobs = {
    "check_claims": [""],
    **{f"draw_{name}": [""] for name in FIGURE_NAMES},
    "regress": [""],
    "report": [""],
    "tabulate": [""],
}
OF_ONE: Jobs = {rule: jobs for rule, jobs in TABLES.items() if rule != "draw_reconstruction"}
# figures that show nothing of fewer than three tokenizers, or of one guidance scale
OF_THREE: Jobs = {
    f"draw_{name}": [""]
    for name in (
        "all_metrics",
        "correlations",
        "correlations_narrow",
        "intercorrelations",
        "neighbours_probe",
        "strongest",
        "strongest_narrow",
    )
}
OF_A_SWEEP: Jobs = {"draw_best_guidance": [""], "draw_guidance": [""]}
CLAIM = """
- {id: one-more, section: none, statement: VIV goes with quality, table: correlations,
   statistic: pearson, selector: {metric: velocity.viv}, expect: {at_least: 0}, refuted_by: no}
"""
PERSPECTIVES = ("continuity", "equivariance", "reconstruction", "semantics", "smoothness")
PERSPECTIVES += ("spatial", "uniformity", "velocity", "fisher")


def chain(tokenizer: str, backbones: tuple[str, ...] = ("sit-a", "sit-b")) -> Jobs:
    """Return all jobs of one tokenizer."""
    own = [f"tokenizer={tokenizer},tokenizer_seed=0"]
    jobs = {f"measure_{name}": own for name in PERSPECTIVES}
    jobs |= {"train_tokenizer": own, "cache_latents": own}
    return jobs | diffusion([tokenizer], backbones)


def diffusion(tokenizers: list[str], backbones: tuple[str, ...]) -> Jobs:
    """Return the jobs from training on latents to generation quality."""
    models = sorted(
        f"tokenizer={t},tokenizer_seed=0,backbone={b},seed=0" for t in tokenizers for b in backbones
    )
    sampled = [f"{model},guidance=1" for model in models]
    jobs = {"train_diffusion": models, "measure_learned_fisher": models}
    return jobs | {"sample": sampled, "evaluate_generation": sampled}


def everything(tokenizers: list[str]) -> list[str]:
    """Return the wildcards of every tokenizer at its seed."""
    return [f"tokenizer={t},tokenizer_seed=0" for t in tokenizers]


def change(path: str, value: Any) -> Callable[[Workspace], None]:
    """Return an edit of one value of the study file."""

    def edit(workspace: Workspace) -> None:
        study = copy.deepcopy(SMOKE)
        *parents, last = path.split(".")
        inner = study
        for part in parents:
            inner = inner[part]
        inner[last] = value
        workspace.write_study(study)

    return edit


def touch_everything(workspace: Workspace) -> None:
    """Give every file another time, in an order that a checkout might."""
    files = sorted(
        p for p in workspace.path.rglob("*") if p.is_file() and ".snakemake" not in p.parts
    )
    for k, file in enumerate(reversed(files)):
        os.utime(file, (1_700_000_000 + 60 * k,) * 2)


def reorder_keys(workspace: Workspace) -> None:
    """Write the study with its keys in reverse order, at two depths."""
    study = {key: SMOKE[key] for key in reversed(list(SMOKE))}
    study["bases"] = {
        name: {key: base[key] for key in reversed(list(base))}
        for name, base in SMOKE["bases"].items()
    }
    workspace.write_study(study)


def add_comments(workspace: Workspace) -> None:
    """Add a comment to the study, to a script and to a library-like rule file."""
    for name in ("study.yaml", "scripts/make.py", "rules/stages.smk"):
        file = workspace.path / name
        file.write_text(file.read_text() + "\n# a comment\n")


def lose_records(workspace: Workspace) -> None:
    """Delete what Snakemake remembers."""
    shutil.rmtree(workspace.path / ".snakemake")


def lose_records_and_touch(workspace: Workspace) -> None:
    """As when results are copied to another machine without their times."""
    lose_records(workspace)
    touch_everything(workspace)


def evict_latents(workspace: Workspace) -> None:
    """Delete the bulk latents."""
    shutil.rmtree(workspace.path / "results" / "cache")


def accumulate_and_compile(workspace: Workspace) -> None:
    """Ask for the same training by other means."""
    train = SMOKE["backbones"]["sit-a"]["train"]
    change("backbones.sit-a.train", train | {"accumulation": 2, "compile": True})(workspace)


def rename_report(workspace: Workspace) -> None:
    """Ask for the report under another name."""
    change("report", "other.html")(workspace)


BOTH = ["conv-base", "conv-vf-glyph"]
ALIGNED = {"method": "eq", "base": "conv-f2d4", "operators": ["flip"]}
CASES: list[tuple[str, Callable[[Workspace], None], Jobs]] = [
    ("nothing", lambda workspace: None, {}),
    ("touch everything", touch_everything, {}),
    ("reorder keys", reorder_keys, {}),
    ("edit comments", add_comments, {}),
    ("delete .snakemake", lose_records, {}),
    ("evict latents", evict_latents, {}),
    ("spell a number otherwise", change("bases.conv-f2d4.train.lr", "0.20e-2"), {}),
    ("write a default out", change("sampling.solver", "euler"), {}),
    ("share a training among GPUs", change("backbones.sit-a.gpus", 2), {}),
    ("accumulate and compile", accumulate_and_compile, {}),
    ("report elsewhere", rename_report, {"report": [""]}),
    ("add a tokenizer", change("tokenizers.new", ALIGNED), chain("new") | TABLES | OF_THREE),
    (
        "change a tokenizer",
        change("tokenizers.conv-vf-glyph.weight", 0.2),
        chain("conv-vf-glyph") | TABLES,
    ),
    (
        "change a base",
        change("bases.conv-f2d4.train.steps", 31),
        {
            rule: sorted(chain("conv-base")[rule] + chain("conv-vf-glyph")[rule])
            for rule in chain("conv-base")
        }
        | TABLES,
    ),
    (
        "change a backbone",
        change("backbones.sit-b.depth", 2),
        diffusion(BOTH, ("sit-b",)) | TABLES,
    ),
    (
        "change a metric's option",
        change("metrics.semantics.neighbours", [1, 5]),
        {"measure_semantics": everything(BOTH)} | TABLES,
    ),
    (
        "change the sampling",
        change("sampling.evaluations", 5),
        {
            rule: jobs
            for rule, jobs in diffusion(BOTH, ("sit-a", "sit-b")).items()
            if rule in ("sample", "evaluate_generation")
        }
        | TABLES,
    ),
    (
        "add a guidance scale",
        change("sampling.guidance", [1.0, 2.0]),
        {
            rule: [job.replace("guidance=1", "guidance=2") for job in jobs]
            for rule, jobs in diffusion(BOTH, ("sit-a", "sit-b")).items()
            if rule in ("sample", "evaluate_generation")
        }
        | TABLES
        | OF_A_SWEEP,
    ),
    (
        "change the alignment encoder",
        change("encoders.glyph.train.steps", 31),
        {"train_encoder": ["encoder=glyph"]} | chain("conv-vf-glyph") | TABLES,
    ),
    (
        "remove a tokenizer",
        change("select", {"dataset": "digits", "tokenizers": ["conv-base"]}),
        OF_ONE,
    ),
    (
        "add a seed",
        change("select", {"dataset": "digits", "repeats": {"conv-base": {"seeds": [1]}}}),
        {
            rule: [job.replace(",seed=0", ",seed=1") for job in jobs]
            for rule, jobs in diffusion(["conv-base"], ("sit-a", "sit-b")).items()
        }
        | TABLES,
    ),
    (
        "change the analysis",
        change("analysis", {"confidence": 0.9}),
        TABLES,
    ),
]


@pytest.mark.parametrize(("edit", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_exactly_these_jobs_run(
    finished: Workspace, edit: Callable[[Workspace], None], expected: Jobs
) -> None:
    edit(finished)
    assert finished.planned() == dict(sorted(expected.items()))


def test_times_without_records_redo_no_more_than_tables(finished: Workspace) -> None:
    # a copy without times and records: Snakemake cannot know, but fingerprints do
    lose_records_and_touch(finished)
    assert set(finished.planned()) <= set(TABLES)


def test_changing_back_finds_everything(finished: Workspace) -> None:
    change("tokenizers.conv-vf-glyph.weight", 0.2)(finished)
    assert finished.planned() == dict(sorted((chain("conv-vf-glyph") | TABLES).items()))
    finished.write_study(SMOKE)
    assert finished.planned() == {}


def test_a_lost_card_is_noticed_and_made_again_alone(finished: Workspace) -> None:
    (card,) = finished.path.glob("results/tokenizer/conv-base/s0/*/provenance.json")
    card.unlink()
    target = str(card.relative_to(finished.path))
    assert finished.planned() == {}  # everything that was made from it is still valid
    missing = finished.run("diffusability", "ls", "--study", "study.yaml", "--missing").stdout
    assert missing.split() == ["missing", target.removesuffix("/provenance.json")]
    expected = {"train_tokenizer": ["tokenizer=conv-base,tokenizer_seed=0"]}
    assert finished.planned(target) == expected


def test_narrowing_on_the_command_line(finished: Workspace) -> None:
    select = "select={tokenizers: [conv-base], backbones: [sit-a]}"
    of_one_backbone = {rule: OF_ONE[rule] for rule in OF_ONE if rule != "draw_generalization"}
    assert finished.planned("--config", select) == of_one_backbone


def test_changed_claims_are_judged_again(
    finished: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims are in the package: a copy of it, first on the path, is the one that is used."""
    shutil.copytree(REPOSITORY / "diffusability", finished.path / "diffusability")
    monkeypatch.setenv("PYTHONPATH", str(finished.path))
    cold = Workspace(finished.path)  # a warm Snakemake has imported the repository's
    assert cold.planned() == {}
    claims = finished.path / "diffusability" / "claims" / "study.yaml"
    claims.write_text(claims.read_text() + CLAIM)
    rest = {rule: jobs for rule, jobs in TABLES.items() if rule not in ("tabulate", "regress")}
    assert cold.planned() == rest


def test_a_moved_workflow_and_a_moved_study_file(finished: Workspace, tmp_path: Path) -> None:
    moved = Workspace.create(tmp_path / "moved")
    (tmp_path / "study.yaml").write_bytes((finished.path / "study.yaml").read_bytes())
    snakefile = str(moved.path / "Snakefile")
    assert finished.planned("-s", snakefile, study=str(tmp_path / "study.yaml")) == {}
