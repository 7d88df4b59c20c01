"""`make study` for real, and the README's commands that need its results or make something."""

import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.workflow.readme import long_commands
from tests.workflow.workspace import Workspace

# the environment of the tests as it is: installed again, it would be of a copy that is removed
INSTALLED = f"{sys.prefix}/.installed"
STUDY = ("make", "study", f"VENV={sys.prefix}", f"--old-file={INSTALLED}")


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the workflow in which `make study` has run, in the environment of the tests."""
    workspace = Workspace.create(tmp_path_factory.mktemp("newcomer") / "work")
    output = workspace.run(*STUDY).stdout
    assert "Report: results/report.html" in output
    draws, labels = np.random.default_rng(0), np.arange(400) % 4
    latents = draws.normal(size=(400, 4, 8, 8)) + labels[:, None, None, None]
    masks = np.zeros((400, 8, 8), bool)
    masks[:, 2:6, 2:6] = True
    for name, array in (("z", latents.astype(np.float32)), ("y", labels), ("m", masks)):
        np.save(workspace.path / f"{name}.npy", array)  # the latents that the README scores
    return workspace


@pytest.fixture(scope="module")
def table(newcomer: Workspace) -> pd.DataFrame:
    """The tidy table of the default study."""
    return pd.read_csv(newcomer.path / "results/tables/digits/measurements.csv")


def test_second_call_says_that_nothing_is_to_be_done(newcomer: Workspace) -> None:
    output = newcomer.run(*STUDY).stdout
    assert "Nothing to be done" in output
    assert "Report: results/report.html" in output


def test_tokenizers_reconstruct(table: pd.DataFrame) -> None:
    psnr = table[table["metric"] == "reconstruction.psnr"].set_index("tokenizer")["value"]
    assert len(psnr) >= 4
    assert psnr.min() > 22, psnr.to_dict()  # dB; a blurred mean digit has about 11


def test_samples_look_like_digits(table: pd.DataFrame) -> None:
    accuracy = table[
        (table["backbone"] == "sit-xs") & (table["metric"] == "generation.class_accuracy_judge")
    ]
    assert len(accuracy) >= 10
    assert accuracy["value"].min() > 0.75, accuracy["value"].tolist()  # chance is 0.1


def test_the_answer_is_that_of_the_documents(newcomer: Workspace) -> None:
    """What it says on every processor: trainings on another kind of it give another r."""
    page = (REPOSITORY / "docs" / "index.md").read_text()
    (printed,) = re.findall(r"```text\n(This study.*?)```", page, re.DOTALL)
    said = " ".join(newcomer.run("diffusability", "show").stdout.split())
    told = " ".join(printed.partition("...")[0].split())
    start = "This study cannot tell which latent space a diffusion model learns well, because"
    assert said.startswith(start)
    assert told.startswith(start)
    assert "Another kind of processor gives other numbers" in " ".join(page.split())
    tests = "Of 4 tests declared before the run: 0 as declared, 0 opposite, 4 undecided."
    assert tests in said
    assert tests in told
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    assert "No correlation is beyond chance after correction" in readme
    judged = pd.read_csv(newcomer.path / "results/tables/digits/tokenizers.csv")
    assert (len(judged), int(judged["comparable"].sum())) == (10, 9)
    assert "Nine tokenizers (the tenth reconstructs worse and is left out)" in readme


def test_the_tables_are_small(newcomer: Workspace) -> None:
    files = (newcomer.path / "results/tables/digits").glob("*.csv")
    assert sum(file.stat().st_size for file in files) < 3e6


def test_a_chain_that_is_made_again_gives_the_same_tables(newcomer: Workspace) -> None:
    folder = newcomer.path / "results/tables/digits"
    before = {file.name: pd.read_csv(file) for file in sorted(folder.glob("*.csv"))}
    for made in [folder, *(newcomer.path / "results").glob("*/conv-repa")]:
        shutil.rmtree(made)
    tables = ("snakemake", "-c2", "tables", "--quiet")
    assert "train_tokenizer" in newcomer.run(*tables, "rules", "-n").stdout
    newcomer.run(*tables, "all")
    for name, table in before.items():
        pd.testing.assert_frame_equal(pd.read_csv(folder / name), table, rtol=1e-9, obj=name)


@pytest.mark.parametrize("command", long_commands())
def test_command_of_the_readme(newcomer: Workspace, command: str) -> None:
    result = newcomer.run("bash", "-c", command, check=False)
    assert result.returncode == 0, result.stdout
