"""`snakemake fisher_toy`: a small toy study from its file to its figures, and what changes cost."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.workflow.workspace import Workspace

STUDY = "studies/fisher_toy.yaml"


def smaller(study: dict) -> dict:
    """Return the study with few spaces, levels and steps."""
    edm = study["networks"]["edm"] | {"points": 500}
    edm["train"] = edm["train"] | {"steps": 30}
    return study | {
        "steps": [22, 49],
        "variances": [1.0],
        "samples": 50,
        "networks": {"edm": edm},
        "activation": {"functions": ["relu"], "slopes": [0.5], "networks": ["edm"]},
        "scale": {"eps": [0.1], "learned": [], "networks": ["edm"]},
        "dimension": {"ambient": 3, "dims": [2, 3], "learned": [], "networks": ["edm"]},
        "cylinder": {"inverse_radii": [0.4], "learned": [], "networks": ["edm"]},
    }


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which a small toy study is finished."""
    workspace = Workspace.create(tmp_path_factory.mktemp("toy") / "work")
    study = yaml.safe_load((workspace.path / STUDY).read_text())
    workspace.write_study(smaller(study), STUDY)
    workspace.run("snakemake", "fisher_toy", "-c2", "--show-failed-logs")
    return workspace


def test_figures_and_table_are_there(toy: Workspace) -> None:
    figures = {p.name for p in (toy.path / "results/figures/fisher_toy").glob("*.*")}
    names = ("activations", "deviation_by_noise", "deviation_by_parameter", "deviation_parts")
    assert figures == {f"{name}.{kind}" for name in names for kind in ("svg", "pdf", "png")}
    table = pd.read_csv(toy.path / "results/tables/fisher_toy/curves.csv")
    cell = ["experiment", "space", "network", "seed", "v"]
    assert not table.duplicated(cell).any()
    assert set(table["network"]) == {"exact", "edm"}
    # 6 exact panels and 2 learned ones, of 3 levels each
    assert len(table) == 3 * (2 * 2 + 1 + 2 + 1)


def test_exact_rows_are_closed_forms(toy: Workspace) -> None:
    table = pd.read_csv(toy.path / "results/tables/fisher_toy/curves.csv")
    exact = table[table["network"] == "exact"]
    scale = exact[exact["experiment"] == "scale"]
    expected = 1 - ((1 + scale["v"]) / (1.1 + scale["v"])) ** 2
    assert scale["relative"].tolist() == pytest.approx(expected.tolist(), abs=1e-9)
    plane = exact[(exact["experiment"] == "dimension") & (exact["parameter"] == 2)]
    assert plane["scaled"].tolist() == pytest.approx([1 / 3] * 3, abs=1e-9)
    assert (exact["fi_stderr"] == 0).all()
    assert (table.loc[table["network"] == "edm", "fir_stderr"] > 0).all()


def test_nothing_is_left_to_do_and_everything_verifies(toy: Workspace) -> None:
    output = toy.run("snakemake", "fisher_toy", "-c1").stdout
    assert "Nothing to be done" in output
    assert "9 artifacts verified, 0 problems" in toy.run("diffusability", "verify").stdout
    kept = toy.run("diffusability", "gc", "--study", "studies/smoke.yaml").stdout
    assert "would remove results/fisher_toy" not in kept


def test_a_new_parameter_makes_its_own_curve_only(toy: Workspace, tmp_path: Path) -> None:
    changed = toy.copy(tmp_path / "work")
    study = yaml.safe_load((changed.path / STUDY).read_text())
    study["scale"]["eps"].append(0.3)
    changed.write_study(study, STUDY)
    planned = changed.planned("fisher_toy", study="studies/smoke.yaml")
    assert planned == {
        "measure_fisher_toy": ["space=scale-0.3,network=exact,seed=0"],
        "tabulate_fisher_toy": [""],
        "check_fisher_claims": [""],
        "draw_fisher_toy": [""],
    }
