"""What the gallery says of Fashion-MNIST is what the analysis makes of its measurements."""

import re
from functools import cache

import pandas as pd
import pytest

from diffusability.analysis.analyse import analyse
from diffusability.analysis.catalogue import represented
from diffusability.analysis.correlation import meaningless, turned
from diffusability.analysis.frames import read_table
from diffusability.analysis.measurements import read_measurements
from diffusability.study.load import load_study
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "gallery" / "README.md"
FOLDER = PAGE.parent / "fashion"
STUDY = load_study([REPOSITORY / "studies" / "fashion.yaml", FOLDER / "part.yaml"])
TARGET = "generation.fd_judge"
DERIVED = ("correlations", "declared_tests", "noise_floor", "tokenizers", "predictions")


@cache
def tables() -> dict[str, pd.DataFrame]:
    """Return the measurements of the gallery, and the tables derived from them here."""
    measured = read_measurements(FOLDER / "tables" / "measurements.csv.gz")
    return {"measurements": measured} | analyse({"measurements": measured}, STUDY.analysis, DERIVED)


def number(value: float) -> str:
    """Return a correlation as the gallery writes it: `.87`, `-.30`."""
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def cell(row: pd.Series, statistic: str = "pearson") -> str:
    """Return a turned r and its interval: bold without zero, with a star if not tested."""
    value, low, high = turned(row, statistic)
    bold = "**" if low * high > 0 else ""
    star = "*" * meaningless(row)
    return f"{bold}{number(value)}{bold} [{number(low)}, {number(high)}]{star}"


def correlation_rows() -> dict[str, list[str]]:
    """Return r of each perspective's metric at the last step, by backbone."""
    own = tables()["correlations"]
    own = own[(own["target"] == TARGET) & (own["step"] == own["step"].max())]
    found = own.set_index(["metric", "backbone"])
    rows = {}
    for metric, short in represented(own["metric"]).items():
        panels = [(metric, name) for name in STUDY.selected_backbones]
        rows[short] = [cell(found.loc[panel]) for panel in panels]
        if short in ("VIV", "LNC"):
            held = [cell(found.loc[panel], "pearson_partial") for panel in panels]
            rows[f"{short} given PSNR"] = held
    return rows


def step_rows() -> dict[str, list[str]]:
    """Return r of each declared metric at every training length, by backbone."""
    own = tables()["correlations"]
    own = own[own["target"] == TARGET].set_index(["metric", "backbone", "step"]).sort_index()
    names = represented(STUDY.analysis.declared.metrics)
    steps = sorted(own.index.unique("step"))
    return {
        f"{short}, {backbone}": [cell(own.loc[(metric, backbone, step)]) for step in steps]
        for backbone in STUDY.selected_backbones
        for metric, short in names.items()
    }


def tokenizer_rows() -> dict[str, list[str]]:
    """Return reconstruction, declared metrics and images of each tokenizer, at the last step."""
    table, judged = tables()["measurements"], tables()["tokenizers"].set_index("tokenizer")
    names = represented(STUDY.analysis.declared.metrics)
    nested = ["tokenizer", "tokenizer_seed"]
    rows = {}
    for tokenizer, own in table.groupby("tokenizer", sort=False):
        psnr, rfd = judged.loc[str(tokenizer), ["psnr", "rfd"]]
        cells = [f"{psnr:.1f}", f"{rfd:.2f}"]
        for metric in names:
            value = own[own["metric"] == metric].groupby("tokenizer_seed")["value"].mean().mean()
            cells.append(number(value))
        for backbone in STUDY.selected_backbones:
            for metric, digits in ((TARGET, 2), ("generation.class_accuracy_judge", 3)):
                last = own[(own["metric"] == metric) & (own["backbone"] == backbone)]
                last = last[last["step"] == last["step"].max()]
                value = last.groupby(nested)["value"].mean().mean()
                cells.append(f"{value:.{digits}f}")
        left = "" if judged.loc[str(tokenizer), "comparable"] else " (left out)"
        rows[f"{tokenizer}{left}"] = cells
    return rows


def noise_rows() -> dict[str, list[str]]:
    """Return reliability, both noises, and sets of samples that failed, by backbone."""
    floor = tables()["noise_floor"]
    floor = floor[(floor["target"] == TARGET) & (floor["step"] == floor["step"].max())]
    sets = tables()["measurements"]
    sets = sets[sets["metric"] == TARGET]
    rows = {}
    for backbone, row in floor.set_index("backbone").iterrows():
        own = sets[sets["backbone"] == backbone]
        failed = own["failed"].astype(bool).groupby(own["step"]).agg(["sum", "size"])
        ends = f"[{number(row['low'])}, {number(row['high'])}]"
        rows[str(backbone)] = [
            f"{number(row['reliability'])} {ends}",
            number(row["variance_diffusion_seeds"] ** 0.5),
            number(row["variance_tokenizer_seeds"] ** 0.5),
            "; ".join(f"{bad} of {whole}" for bad, whole in failed.itertuples(index=False)),
        ]
    return rows


@pytest.mark.parametrize("rows", [correlation_rows, step_rows, tokenizer_rows, noise_rows])
def test_every_number_of_a_table_is_recomputed(rows) -> None:
    text = PAGE.read_text()
    for words, cells in rows().items():
        (line,) = re.findall(rf"^\| {re.escape(words)} \|(.*)\|$", text, flags=re.MULTILINE)
        assert [part.strip() for part in line.split("|")] == cells, words


@pytest.mark.parametrize("name", DERIVED)
def test_the_tables_of_the_gallery_follow_from_its_measurements(name: str) -> None:
    stored = read_table(FOLDER / "tables" / f"{name}.csv")
    pd.testing.assert_frame_equal(stored, tables()[name], check_dtype=False, rtol=1e-5)


def test_the_inception_score_beside_the_distance() -> None:
    own = tables()["correlations"]
    own = own[(own["target"] == "generation.inception_score_judge") & (own["step"] == 1600)]
    row = own.set_index(["backbone", "metric"]).loc[("lightningdit", "semantics.lnc5")]
    said = cell(row).replace("**", "")
    assert (
        f"r = {said}; Holm's p over the metrics of that panel {number(row['pearson_p_holm'])}"
        in (" ".join(PAGE.read_text().split()))
    )


def test_what_the_page_says_of_all_tests() -> None:
    assert tables()["declared_tests"]["verdict"].tolist() == ["undecided"] * 8
    ends = tables()["declared_tests"]
    known = ends[ends["turned_r_low"] * ends["turned_r_high"] > 0]
    settled = set(zip(known["metric"], known["backbone"], known["turned_r"] > 0, strict=True))
    assert settled == {
        ("spatial.srss", "sit", True),
        ("spatial.srss", "lightningdit", True),
        ("semantics.lnc5", "lightningdit", False),
    }
    distances = tables()["predictions"].set_index("target").loc[TARGET]
    assert (distances["note"] != "").all()
    runs = tables()["measurements"]
    last = runs[(runs["metric"] == TARGET) & (runs["backbone"] == "sit") & (runs["step"] == 1600)]
    worst = last.groupby(["tokenizer", "tokenizer_seed"])["value"].mean().idxmax()
    assert worst == ("conv-base", 1)  # trained again, the worst of all
