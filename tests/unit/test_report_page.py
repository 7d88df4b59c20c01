"""Scores, warnings and methods of a report say what the tables and manifests hold."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from diffusability.analysis.equal_reconstruction import tokenizers
from diffusability.analysis.frames import table_frame
from diffusability.figures.panels import panel_grid
from diffusability.figures.style import write_figure
from diffusability.report import figures
from diffusability.report.doubts import (
    damaged_images,
    equality_rows,
    failed_rows,
    flag_rows,
    warnings,
    wider_than_stated,
)
from diffusability.report.methods import methods
from diffusability.report.scores import left_out_rows, perspective_rows, score_table
from diffusability.report.summaries import compared_sentence
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import CARD
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY
from tests.unit.measurement_table import measurement_table

TARGET = "generation.fd_judge"


@pytest.fixture(scope="module")
def tables():
    """Return the tables that scores and warnings read, of two families."""
    table = measurement_table(10, families=("a", "b"), backbones=("sit-b",))
    own = {"measurements": table, "tokenizers": tokenizers(table)}
    return own | {"correlations": table_frame("correlations", [])}


def test_scores_are_ranked_within_their_family_with_the_best_marked(tables):
    table = tables["measurements"]
    found = score_table(tables, TARGET)
    names = [column.name for column in found["columns"]]
    assert names[:2] == ["Fréchet distance (judge), sit-b, guidance 1", "PSNR"]
    assert [column.about for column in found["columns"]][:2] == [
        "lower is better",
        "dB, higher is better",
    ]
    for short, metric, up in (("VIV", "velocity.viv", False), ("LNC", "semantics.lnc5", True)):
        means = table[table["metric"] == metric].groupby("tokenizer")["value"].mean()
        k = names.index(short)
        for family in ("a", "b"):
            rows = [row for row in found["rows"] if row["family"] == family]
            own = means[[row["tokenizer"] for row in rows]]
            (best,) = [row["tokenizer"] for row in rows if row["cells"][k].best]
            assert best == (own.idxmax() if up else own.idxmin())
            ranks = (own.rank(ascending=up) - 1) / (len(own) - 1)
            assert [row["cells"][k].rank for row in rows] == pytest.approx(list(ranks))
    for family in ("a", "b"):
        order = [float(r["cells"][0].order) for r in found["rows"] if r["family"] == family]
        assert order == sorted(order)


def test_differences_within_the_noise_of_trainings_are_not_ranked(tables):
    floor = table_frame("noise_floor", [])
    cells = {}
    for gap in (0.0, 17.0, 1e9):
        row = {"target": TARGET, "backbone": "sit-b", "guidance": 1.0, "resolvable_gap": gap}
        rows = [row | {"family": family} for family in ("a", "b")]
        found = score_table(
            tables | {"noise_floor": pd.DataFrame(rows, columns=floor.columns)}, TARGET
        )
        cells[gap] = [row["cells"][0] for row in found["rows"] if row["family"] == "a"]
    assert [cell.best for cell in cells[0.0]] == [True] + [False] * 4
    assert {(cell.rank, cell.best) for cell in cells[1e9]} == {(0.5, False)}
    values = np.array([float(cell.order) for cell in cells[17.0]])  # lower is better
    lost = (values[:, None] - values[None] > 17.0).sum(axis=1)
    assert 1 < (lost == 0).sum() < 5  # some are resolved, and some are not
    assert [cell.rank for cell in cells[17.0]] == pytest.approx(1 - lost / 4)
    near = values - values.min() <= 17.0  # what is within noise of the best is best, all alike
    assert [cell.best for cell in cells[17.0]] == list(near)
    assert {cell.rank for cell in cells[17.0] if cell.best} == {1.0}


def test_a_score_that_was_not_measured_is_empty_and_a_lone_one_has_no_rank(tables):
    table = tables["measurements"]
    lone = (table["metric"] != "spatial.srss") | (table["tokenizer"] == "t03")
    found = score_table(tables | {"measurements": table[lone]}, TARGET)
    k = [column.name for column in found["columns"]].index("SRSS")
    cells = {row["tokenizer"]: row["cells"][k] for row in found["rows"]}
    assert cells["t00"].text == ""
    assert cells["t03"].text != ""
    assert not cells["t03"].best
    assert math.isnan(cells["t03"].rank)


def test_every_kind_of_doubt_is_said(tables):
    table = tables["measurements"].copy()
    first = table["tokenizer"] == "t00"
    table.loc[first & (table["metric"] == "velocity.viv"), "flags"] = "2 dead channels; 1 skipped"
    table["failed"] = (first & (table["metric"] == TARGET)).astype("boolean")
    table.loc[table["failed"], "failed_reason"] = "class accuracy at chance"
    chance = {"family": "a", "metric": "semantics.lnc5", "at_chance": True}
    told = tables | {"measurements": table, "correlations": table_frame("correlations", [chance])}
    enlarged = "3 of 9 images are enlarged to 256 pixels"
    said = " ".join(warnings(told, {"n01/a.jpg": "truncated"}, {"vae": 0.84}, enlarged))
    assert f"{enlarged}: they hold less detail" in said
    assert "sets of samples failed" in said
    assert "Damaged image files that were left out (1): n01/a.jpg (truncated)." in said
    assert "share of posterior noise: vae (84%). `latent_scale: draws` in the backbone" in said
    assert "At chance over the tokenizers of a, and so without meaning: semantics.lnc5." in said
    flags = flag_rows(table).set_index("flag")
    assert list(flags.index) == ["2 dead channels", "1 skipped"]
    assert flags.loc["1 skipped", "tokenizers"] == "t00"
    table.loc[first, "flags"] = "exact-images-3; extrapolation: sigma outside the trained range"
    assert list(flag_rows(table)["flag"]) == [
        "images reconstructed without any error: 3",
        "noise level outside the trained range",
    ]
    table.loc[first, "flags"] = "repeats-overlap"
    table.loc[table["tokenizer"] == "t01", "flags"] = "model-error: (A - C) / B > 0.1 (v = 1, 2)"
    levels = table["tokenizer"] == "t02"  # other noise levels: the same flag
    table.loc[levels, "flags"] = "model-error: (A - C) / B > 0.1 (v = 1)"
    said = flag_rows(table).set_index("flag")["tokenizers"]
    assert said["the learned score is overfitted"] == "t01, t02"
    failed = failed_rows(table)
    assert set(failed["tokenizer"]) == {"t00"}
    assert set(failed["why it failed"]) == {"class accuracy at chance"}
    quiet = tables | {"tokenizers": tables["tokenizers"].assign(psnr_spread=0.1)}
    (poor,) = warnings(quiet, {}, {})
    assert "hardly reconstructed" in poor
    assert "reconstruction.psnr of t00 (" in poor
    sharp = tables["measurements"].copy()
    sharp.loc[sharp["metric"] == "reconstruction.psnr", "value"] += 30
    assert warnings(quiet | {"measurements": sharp}, {}, {}) == []


def test_reconstruction_is_listed_where_it_is_judged(tables):
    judged = tables["tokenizers"].assign(comparable=[True] * 9 + [False], reason="")
    assert list(equality_rows(judged)["comparable"]) == ["yes"] * 9 + ["no"]
    assert equality_rows(tables["tokenizers"]).empty  # the scores have it


def test_tokenizers_that_are_not_compared_are_named_or_counted():
    assert compared_sentence([]) == ""
    assert compared_sentence(["a"]).startswith("a is left out of the statistics: not equal")
    assert compared_sentence(["a", "b", "c"]).startswith("a, b and c are left out")
    assert compared_sentence(["a", "b", "c", "d"]).startswith("4 of them are left out")


def test_damaged_images_are_those_of_the_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"damaged": {"a.png": "truncated"}}))
    (tmp_path / CARD).touch()
    dataset = SimpleNamespace(path=str(tmp_path), card=str(tmp_path / CARD))
    plan = SimpleNamespace(of_stage=lambda _: [dataset])
    assert damaged_images(plan) == {"a.png": "truncated"}


def test_posteriors_that_edm_does_not_expect_are_found(tmp_path):
    made = []
    for name, share, options in (
        ("wide", 0.84, {"process": "edm"}),
        ("narrow", 0.01, {"process": "edm"}),
        ("scaled", 0.84, {"process": "edm", "latent_scale": "draws"}),
        ("flow", 0.84, {}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "latents.json").write_text(json.dumps({"posterior_variance_share": share}))
        latents = SimpleNamespace(path=str(folder))
        labels = {"tokenizer": name}
        made.append(SimpleNamespace(spec=options, labels=labels, upstream={"latents": latents}))
    assert wider_than_stated(SimpleNamespace(of_stage=lambda _: made)) == {"wide": 0.84}


def test_the_methods_name_sizes_seeds_and_versions(tables):
    plan = Plan(load_study([str(Path(REPOSITORY, "studies", "smoke.yaml"))]))
    manifest = {"images": 1797, "classes": 10, "damaged": {"a.png": "truncated"}}
    manifest["images_by_class"] = {"train": [700, 737], "val": [360]}
    text = " ".join(methods(plan, tables, TARGET, [manifest], {"torch": "2.13.0"}))
    assert (
        "1,797 images of 10 classes (1,437 for train, 360 for val); damaged files left out: 1"
        in text
    )
    assert "10: 5 of a in 3 clusters, 5 of b in 3 clusters" in text
    assert "Images. 100 per model" in text
    assert "guidance 1 (1: none)" in text
    assert "Its 95% interval is a delete-one-cluster jackknife" in text
    entry = plan.study.tokenizers["conv-base"]
    assert f"{entry.train.steps:,} steps of {entry.train.batch} images" in text
    assert f"with {plan.study.sampling.evaluations} function evaluations" in text
    assert "torch 2.13.0" in text
    assert "Declared before the run" not in text
    declared = Plan(load_study([str(REPOSITORY / "config.yaml")]))
    text = " ".join(methods(declared, tables, TARGET, [manifest], {"torch": "2.13.0"}))
    names = declared.study.analysis.declared
    assert f"Declared before the run were {len(names.metrics)} tests" in text
    assert f"the correlation of {', '.join(names.metrics)} with {names.target}" in text


@pytest.mark.parametrize(
    ("repeats", "said"),
    [
        ({"conv-base": {"seeds": [1]}, "conv-vf-glyph": {"seeds": [1]}}, "; 1 has further seeds"),
        ({"conv-base": {"seeds": [0]}, "conv-vf-glyph": {"seeds": [1]}}, ""),  # none is another
    ],
)
def test_the_methods_count_repeats_of_what_was_selected(tables, repeats, said):
    select = {"tokenizers": ["conv-base"], "repeats": repeats}
    plan = Plan(load_study(REPOSITORY / "studies" / "smoke.yaml", {"select": select}))
    text = " ".join(methods(plan, tables, TARGET, [], {}))
    assert ("further seeds" in text) == bool(said)
    assert said in text


def test_a_page_without_models_shows_every_perspective_and_what_was_left_out(tables):
    table = tables["measurements"].copy()
    rows = perspective_rows(table).set_index("metric")
    value = table[(table["metric"] == "velocity.viv") & (table["tokenizer"] == "t00")]["value"]
    assert rows.loc["VIV", "t00"].startswith(f"{value.mean():.3g}")
    assert {"VIV", "LNC", "SRSS"} <= set(rows.index)
    pooled = table["metric"] == "velocity.viv"
    flagged = table.assign(flags=table["flags"].where(~pooled, "one class: unconditional; more"))
    told = perspective_rows(flagged).set_index("metric")["read with care"]
    assert told["VIV, unconditional"] == "more"  # the first is in the name
    study = load_study(REPOSITORY / "studies" / "smoke.yaml")
    classes = study.dataset.num_classes
    few = {"train": [1] * classes, "val": [0] * classes}
    first = {"tokenizer": study.selected_tokenizers[0], "metric": "spatial.srss"}
    reason = {"value": math.nan, "flags": "not applicable: the dataset has no masks"}
    table = pd.concat([table, table.iloc[:1].assign(**first, **reason, backbone="")])
    study = study.model_copy(
        update={
            "select": study.select.model_copy(update={"metrics": ("smoothness",), "backbones": ()})
        }
    )
    assert not study.has_models
    found = left_out_rows(study, table, few).set_index("metric")
    assert found.loc["SRSS", "reason"] == "the dataset has no masks"
    assert found.loc["SRSS", "tokenizers"] == first["tokenizer"]
    assert "images" in found.loc["velocity ambiguity", "reason"]


def test_a_narrow_figure_stands_in_for_its_wide_one_on_a_phone(tmp_path, monkeypatch):
    widths = {"strongest": 4.0, "strongest_narrow": 2.0, "pairs": 8.0}
    for name, width in widths.items():
        figure, _ = panel_grid(1, 1, panel=(1.0, 1.0), narrowest=width)
        write_figure(figure, [tmp_path / f"{name}.svg"])
    monkeypatch.setattr(figures, "figure_names", lambda _: tuple(widths))
    monkeypatch.setattr(figures, "figure_files", lambda _, name: [str(tmp_path / f"{name}.svg")])
    drawn, empty = figures.drawings(SimpleNamespace())
    assert (list(drawn), empty) == (["strongest", "pairs"], {})
    assert drawn["pairs"].narrow is None
    narrow = drawn["strongest"].narrow
    assert narrow is not None
    assert narrow.width < drawn["strongest"].width
    assert narrow.source != drawn["strongest"].source


def test_the_page_shows_the_first_sentence_of_a_caption_and_folds_the_others() -> None:
    text = "Totals as in the paper (Fig. 4, vol. 2). Bars: errors. LOWER is better."
    head, rest = "Totals as in the paper (Fig. 4, vol. 2).", "Bars: errors. LOWER is better."
    assert figures.parted(text) == (head, rest)
    assert figures.parted("One sentence.") == ("One sentence.", "")
