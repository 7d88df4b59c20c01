"""What the gallery says of the Fashion-MNIST study is what the analysis makes of its measurements."""

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
COLLECTED = ("measurements",)


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


@pytest.mark.parametrize("rows", [correlation_rows, step_rows, tokenizer_rows])
def test_every_number_of_a_table_is_recomputed(rows) -> None:
    text = PAGE.read_text()
    for words, cells in rows().items():
        (line,) = re.findall(rf"^\| {re.escape(words)} \|(.*)\|$", text, flags=re.MULTILINE)
        assert [part.strip() for part in line.split("|")] == cells, words


@pytest.mark.parametrize("name", DERIVED)
def test_the_tables_of_the_gallery_follow_from_its_measurements(name: str) -> None:
    stored = read_table(FOLDER / "tables" / f"{name}.csv")
    pd.testing.assert_frame_equal(stored, tables()[name], check_dtype=False, rtol=1e-5)
