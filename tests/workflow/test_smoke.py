"""The finished smoke study: everything is there, verifies, and is drawn the same way twice."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from diffusability.claims.verdicts import NOT_TESTABLE
from diffusability.study.planning.targets import figure_names, table_names
from diffusability.study.reading.load import load_study, read_yaml
from tests.conftest import REPOSITORY
from tests.documented import undocumented
from tests.workflow.browser import find_browser, look
from tests.workflow.workspace import Workspace

STUDY = ("--configfile", "study.yaml")
SMOKE = load_study(REPOSITORY / "studies" / "smoke.yaml")
FIGURE_NAMES, TABLE_NAMES = figure_names(SMOKE), table_names(SMOKE)


def digests(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a folder."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def test_second_run_has_nothing_to_do(finished: Workspace) -> None:
    output = finished.run("snakemake", "-c2", *STUDY).stdout
    assert "Nothing to be done" in output


def test_every_artifact_verifies(finished: Workspace) -> None:
    output = finished.run("diffusability", "verify").stdout
    assert re.search(r"^\d+ artifacts verified, 0 problems$", output, re.MULTILINE)
    listed = finished.run("diffusability", "ls", "--study", "study.yaml").stdout
    assert "missing" not in listed
    assert len(listed.splitlines()) == 42


def test_nothing_half_written_or_locked_is_left(finished: Workspace) -> None:
    assert not list(finished.path.glob("results/state/**/*"))
    assert not [p for p in finished.path.rglob("*.tmp") if ".snakemake" not in p.parts]


def test_table_is_tidy_and_complete(finished: Workspace) -> None:
    table = pd.read_csv(finished.path / "results/tables/smoke/measurements.csv")
    cell = ["tokenizer", "tokenizer_seed", "backbone", "seed", "guidance", "metric"]
    assert not table.duplicated(cell).any()
    assert table[["value", "n", "unit", "fingerprint"]].notna().all(axis=None)
    assert set(table["tokenizer"]) == {"conv-base", "conv-vf-glyph"}
    assert set(table["cluster"]) == {"baseline", "mcos+mdms"}
    assert set(table["backbone"].dropna()) == {"sit-a", "sit-b"}
    metrics = {"velocity.viv", "semantics.lnc5", "spatial.srss", "smoothness.sec25"}
    metrics |= {"reconstruction.psnr", "reconstruction.ssim", "reconstruction.fd_judge"}
    metrics |= {"generation.fd_judge", "generation.class_accuracy_judge"}
    assert metrics <= set(table["metric"])
    assert undocumented(table) == []
    # every number but a spread carries its uncertainty
    assert table["stderr"].notna().mean() > 0.95


@pytest.mark.release
def test_figures_are_redrawn_byte_for_byte_from_the_tables(finished: Workspace) -> None:
    folder = finished.path / "results/figures/smoke"
    before = digests(folder)
    assert {Path(name).suffix for name in before} == {".svg", ".pdf", ".png"}
    shutil.rmtree(folder)
    planned = finished.planned("figures")
    assert set(planned) == {f"draw_{name}" for name in FIGURE_NAMES}
    finished.run("snakemake", "figures", "-c1", *STUDY)
    assert digests(folder) == before


def test_every_table_is_there_and_says_what_it_cannot(finished: Workspace) -> None:
    folder = finished.path / "results/tables/smoke"
    assert {path.stem for path in folder.glob("*.csv")} == set(TABLE_NAMES)
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLE_NAMES}
    # nothing here measures geometry, so there are no spectra
    empty = {name for name, table in tables.items() if table.empty}
    # the study declares no test, and two tokenizers correlate with nothing
    related = {"correlations", "intercorrelations", "regressions"}
    assert empty == {"spectra", "declared_tests"} | related
    profiles = tables["profiles"]
    assert len(profiles) == 2 * 2 * 4  # tokenizers, backbones, steps
    straight = profiles.groupby(["tokenizer", "backbone"])["value"].mean()
    measured = tables["measurements"].set_index("metric").loc["trajectory.efficiency", "value"]
    assert straight.min() >= 1 / measured.max()  # the mean ratio is the mean of 1/efficiency
    # two tokenizers test nothing, and every row says so
    assert set(tables["claims"]["verdict"]) == {NOT_TESTABLE}
    assert tables["claims"]["reason"].notna().all()
    assert tables["noise_floor"]["note"].notna().all()


@pytest.mark.release
def test_figures_of_a_clone_that_holds_only_tables(finished: Workspace, tmp_path: Path) -> None:
    clone = Workspace.create(tmp_path / "clone")
    clone.write_study(read_yaml(finished.path / "study.yaml"))
    shutil.copytree(finished.path / "results/tables", clone.path / "results/tables")
    draw = {f"draw_{name}" for name in FIGURE_NAMES}
    assert set(clone.planned("figures")) == draw
    # a checkout may write the tables in any order: then they are made from each other, no more
    os.utime(clone.path / "results/tables/smoke/measurements.csv")
    assert set(clone.planned("figures")) == draw | {"regress", "check_claims"}
    for name in TABLE_NAMES:
        os.utime(clone.path / f"results/tables/smoke/{name}.csv")
    output = clone.run("snakemake", "figures", "-c1", *STUDY).stdout
    assert f"{len(draw) + 1} of {len(draw) + 1} jobs" in output  # and the target itself
    assert digests(clone.path / "results/figures/smoke") == digests(
        finished.path / "results/figures/smoke"
    )
    assert {p.name for p in (clone.path / "results").iterdir()} == {
        *("tables", "figures", "logs"),
        "studies",  # which study ran here, for `diffusability gc`
    }


def test_report_is_one_file_that_fetches_nothing(finished: Workspace) -> None:
    html = (finished.path / "results/report-smoke.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html)
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", html)
    texts = (
        "conv-vf-glyph",
        "velocity.viv",
        "fd_judge",
        "Reconstructions",
        "Samples",
        "cannot tell",
    )
    texts += ("not testable", "Noise floor of fd_judge, sit-a", "viv-strong")
    texts += ("Fixed in the program and the study file", "@article{zhong2026diffusing")
    for text in texts:
        assert text in html


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_report_in_a_browser(finished: Workspace, width: int, tmp_path: Path) -> None:
    seen = look(finished.path / "results/report-smoke.html", width, tmp_path)
    assert (seen["fetched"], seen["broken"]) == ([], [])
    assert seen["content"] <= seen["width"], seen["wide"]
    assert seen["smallest"] >= 11  # pixels
    assert seen["points"]
    assert min(seen["points"]) * 6 >= 11
    assert width < 1280 or seen["scrolled"] == []
    assert seen["ascending"] == sorted(seen["ascending"]) == seen["descending"][::-1]
    assert seen["shown"]
    assert all("velocity.viv" in row and "conv-base" in row for row in seen["shown"])
    table = pd.read_csv(finished.path / "results/tables/smoke/measurements.csv")
    assert seen["count"] == f"{len(seen['shown'])} of {len(table)} rows"
    assert seen["all"] == min(300, len(table))


def test_snakemakes_own_report_has_the_captions(finished: Workspace) -> None:
    finished.run("snakemake", "--report", "workflow.html", *STUDY)
    html = (finished.path / "workflow.html").read_text()
    assert "Each point is a tokenizer" in html


def test_headline_names_the_report(finished: Workspace) -> None:
    output = finished.run("diffusability", "show", "--study", "study.yaml").stdout
    assert output.startswith("This study cannot tell")
    header = next(line for line in output.splitlines() if "VIV" in line).split()
    assert header[:3] == ["tokenizer", "note", "fd_judge"]
    assert header[header.index("VIV") :][:4] == ["VIV", "LNC", "SRSS", "SEC"]
    assert "Report: results/report-smoke.html" in output
    found = json.loads(
        finished.run("diffusability", "show", "--json", "--study", "study.yaml").stdout
    )
    (noise,) = {sentence for sentence in found["noise"] if "sit-a, guidance 1:" in sentence}
    assert noise.startswith(
        "Noise floor of fd_judge, sit-a, guidance 1: unknown (no repeated seeds"
    )


@pytest.mark.release
def test_evicted_latents_are_encoded_again(finished: Workspace) -> None:
    shards = sorted(finished.path.glob("results/cache/latents/*/*.safetensors"))
    before = {p: p.read_bytes() for p in shards}
    (card,) = finished.path.glob("results/tokenizer/conv-base/s0/*/provenance.json")
    removed = finished.run(
        "diffusability", "gc", "--study", "study.yaml", "--evict", "latents", "--yes"
    ).stdout
    assert removed.count("latents: all that needs them is there, made again on demand") == 2
    assert not any(p.exists() for p in shards)
    assert finished.planned() == {}
    (measured,) = finished.path.glob("results/smoothness/conv-base/s0/*/measurements.json")
    values = [m["value"] for m in json.loads(measured.read_text())]
    forced = ("-f", str(measured.relative_to(finished.path)))
    own = ["tokenizer=conv-base,tokenizer_seed=0"]
    assert finished.planned(*forced) == {"measure_smoothness": own, "restore_latents": own}
    # by hand, without the workflow, it says what to do and does not do it by itself
    by_hand = ("python", "scripts/make.py", "smoothness", "--study", "study.yaml")
    refused = finished.run(*by_hand, "--name", "conv-base", check=False)
    assert refused.returncode == 1
    assert re.search(
        r"results/latents/conv-base/s0/\w+: 2 of its 2 bulk files were evicted or altered; restore "
        r"them with: snakemake -c1 -f results/latents/conv-base/s0/\w+/restored\.json",
        refused.stdout,
    )
    finished.run("snakemake", "-c1", *STUDY, *forced)
    # the last bits of a sum depend on where memory happens to be aligned
    again = [m["value"] for m in json.loads(measured.read_text())]
    assert again == pytest.approx(values, rel=1e-12)
    encoded = [p for p in shards if p.exists()]
    assert len({p.parent for p in encoded}) == 1  # of the one tokenizer that was needed
    assert len(encoded) == len(shards) / 2
    assert all(p.read_bytes() == before[p] for p in encoded)
    assert card.exists()
    assert finished.planned() == {}
    # files that go by hand leave the note of that restore behind, which says nothing then
    shutil.rmtree(encoded[0].parent)
    finished.run("snakemake", "-c1", *STUDY, *forced)
    assert all(p.read_bytes() == before[p] for p in encoded)


@pytest.mark.release
def test_a_missing_reader_has_what_it_reads_restored_and_nothing_else(finished: Workspace) -> None:
    """A failed restore leaves nothing behind: the same command goes on, also without records."""
    shards = sorted(finished.path.glob("results/cache/latents/*/*.safetensors"))
    before = {p: p.read_bytes() for p in shards}
    gc = ("diffusability", "gc", "--configfile", "study.yaml", "--keep", "0", "--yes")
    finished.run(*gc)
    for metric in ("smoothness", "velocity"):
        (card,) = finished.path.glob(f"results/{metric}/conv-base/s0/*/provenance.json")
        shutil.rmtree(card.parent)
    shutil.rmtree(finished.path / "results" / "tables")
    own = ["tokenizer=conv-base,tokenizer_seed=0"]
    expected = {"restore_latents": own, "measure_smoothness": own, "measure_velocity": own}
    planned = finished.planned("tables")
    assert {rule: jobs for rule, jobs in planned.items() if jobs != [""]} == expected
    (model,) = finished.path.glob("results/tokenizer/conv-base/s0/*/model.safetensors")
    good = model.read_bytes()
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    failed = finished.run("snakemake", "tables", "-c2", *STUDY, "-k", check=False)
    assert failed.returncode != 0
    assert "model.safetensors was altered" in failed.stdout
    assert not list(finished.path.glob("results/**/restored.json"))
    model.write_bytes(good)
    assert finished.planned("tables") == planned
    shutil.rmtree(finished.path / ".snakemake")
    assert finished.planned("tables") == planned
    run = finished.run("snakemake", "tables", "-c2", "--printshellcmds", *STUDY).stdout
    assert len(re.findall(r"^(?:local)?checkpoint restore_latents:$", run, re.MULTILINE)) == 1
    encoded = [p for p in shards if p.exists()]
    assert len(encoded) == len(shards) / 2
    assert all(p.read_bytes() == before[p] for p in encoded)
    assert not list(finished.path.glob("results/samples/**/shard-*"))
    assert finished.planned("tables") == {}
    # evicted once more, nothing that is finished notices
    finished.run(*gc)
    assert finished.planned("tables") == {}


def test_evicted_samples_are_generated_again(finished: Workspace) -> None:
    shards = sorted(finished.path.glob("results/samples/**/shard-*.safetensors"))
    before = {p: p.read_bytes() for p in shards}
    gc = ("diffusability", "gc", "--configfile", "study.yaml", "--keep", "0", "--yes")
    assert finished.run(*gc).stdout.count("\nremoved results/") > 0
    assert not any(p.exists() for p in shards)
    assert not list(finished.path.glob("results/cache/latents/*"))
    assert finished.planned() == {}
    assert finished.run("diffusability", "verify").returncode == 0  # evicted is not damaged
    # a new guidance scale makes its own samples, and neither latents nor the old samples
    text = (finished.path / "study.yaml").read_text()
    (finished.path / "study.yaml").write_text(
        text.replace("  count: 200\n", "  count: 200\n  guidance: [1, 2]\n")
    )
    finished.run("snakemake", "tables", "-c2", "--show-failed-logs", *STUDY)
    new = set(finished.path.glob("results/samples/**/shard-*.safetensors"))
    assert {p.parent.parent.name for p in new} == {"guidance2"}
    assert not list(finished.path.glob("results/cache/latents/*"))
    # the evaluation needs the images: the same ones again
    (measured,) = finished.path.glob(
        "results/generation/conv-base/s0/sit-a/s0/guidance1/*/measurements.json"
    )
    values = json.loads(measured.read_text())
    shutil.rmtree(measured.parent)
    target = str(measured.relative_to(finished.path))
    cell = "tokenizer=conv-base,tokenizer_seed=0,backbone=sit-a,seed=0,guidance=1"
    planned = finished.planned(target)
    assert planned == {"restore_samples": [cell], "evaluate_generation": [cell]}
    finished.run("snakemake", "-c1", target, *STUDY)
    assert json.loads(measured.read_text()) == values
    assert not list(finished.path.glob("results/cache/latents/*"))
    (again,) = [p for p in shards if p.exists()]
    assert again.read_bytes() == before[again]


@pytest.mark.release
def test_altered_artifact_is_named_and_made_again(finished: Workspace) -> None:
    (model,) = finished.path.glob("results/tokenizer/conv-base/s0/*/model.safetensors")
    good = model.read_bytes()
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    result = finished.run("diffusability", "verify", check=False)
    assert result.returncode == 1
    assert "model.safetensors was altered" in result.stdout
    command = re.search(r"Make it again with: (.*)$", result.stdout, re.MULTILINE)
    assert command is not None
    # what reads it refuses it, and names the same command
    (measured,) = finished.path.glob("results/reconstruction/conv-base/s0/*/measurements.json")
    target = str(measured.relative_to(finished.path))
    refused = finished.run(
        "snakemake", "-c1", *STUDY, "-f", target, "--show-failed-logs", check=False
    )
    assert refused.returncode != 0
    assert "model.safetensors was altered" in refused.stdout
    finished.run(*command[1].split(), *STUDY)
    assert model.read_bytes() == good  # trained again: the same bits
    # what refused to be made again is still missing
    said = finished.run("diffusability", "verify", check=False).stdout
    assert f"{target}: is missing, although" in said
    finished.run("snakemake", "-c1", *STUDY)
    finished.run("diffusability", "verify")


def test_gc_keeps_what_the_study_names(finished: Workspace) -> None:
    output = finished.run("diffusability", "gc", "--study", "study.yaml").stdout
    assert "\n0 folders" in output
    narrower = finished.run("diffusability", "gc", "--study", "config.yaml").stdout
    # it ran here, so that it is kept whichever study is given
    assert "kept: 42 artifacts of study `smoke`" in narrower
    assert "\n0 folders" in narrower


def test_why_names_the_changed_value(finished: Workspace) -> None:
    text = (finished.path / "study.yaml").read_text().replace("depth: 2", "depth: 3")
    (finished.path / "study.yaml").write_text(text)
    output = finished.run(
        "diffusability", "why", "--study", "study.yaml", "conv-base/s0/sit-a"
    ).stdout
    output = " ".join(output.split())  # it is laid out for 80 columns
    assert re.search(r"differs from [0-9a-f]{12}: depth 2 -> 3", output)
    assert re.search(r"differs from [0-9a-f]{12}: upstream diffusion '\w+' -> '\w+'", output)


def test_plan_counts_what_is_done(finished: Workspace) -> None:
    output = finished.run("diffusability", "plan", "--study", "study.yaml").stdout
    row = next(line for line in output.splitlines() if line.startswith("diffusion"))
    assert row.split()[1:4] == ["4", "4", "0"]
    assert "42 jobs" in output


def test_scripts_run_by_hand(finished: Workspace) -> None:
    by_hand = ("python", "scripts/make.py", "smoothness", "--study", "study.yaml")
    result = finished.run(*by_hand, "--name", "conv-base")
    assert "wrote results/smoothness/conv-base/s0" in result.stdout
    dry = finished.run(*by_hand, "--name", "conv-base", "--dry-run")
    assert dry.stdout.startswith("results/smoothness/conv-base/s0")
    wrong = finished.run(*by_hand, "--name", "conv-bse", check=False)
    assert wrong.returncode != 0
    assert "did you mean `conv-base/s0`?" in wrong.stdout
    assert "Traceback" not in wrong.stdout


def test_time_budget_ends_with_75_and_goes_on_to_the_same_bits(finished: Workspace) -> None:
    (model,) = finished.path.glob("results/tokenizer/conv-base/s0/*/model.safetensors")
    whole = model.read_bytes()
    shutil.rmtree(model.parent)
    train = ("python", "scripts/make.py", "tokenizer", "--study", "study.yaml", "--threads", "1")
    command = (*train, "--name", "conv-base")
    stopped = finished.run(*command, "--minutes", "0", check=False)
    assert stopped.returncode == 75
    assert "time is up; saved step 1 of 30" in stopped.stdout
    assert not model.exists()
    finished.run(*command)
    assert model.read_bytes() == whole
    card = json.loads((model.parent / "provenance.json").read_text())
    assert card["attempts"] == 2
