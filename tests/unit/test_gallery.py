"""The gallery's table of correlations is what the analysis makes of its measurements."""

import re

import pandas as pd
import pytest

from diffusability.analysis.correlation import correlate
from diffusability.analysis.measurements import check_measurements
from tests.conftest import REPOSITORY

GALLERY = REPOSITORY / "docs" / "gallery"
TARGET = "generation.fd_judge"
METRICS = {
    "LNC, neighbours of one class": ("semantics.lnc5", "pearson"),
    "the same given PSNR (LNC)": ("semantics.lnc5", "pearson_partial"),
    "VIV, irreducible variance": ("velocity.viv", "pearson"),
    "the same given PSNR (VIV)": ("velocity.viv", "pearson_partial"),
    "SRSS, spatial structure": ("spatial.srss", "pearson"),
    "SEC, high-frequency energy": ("smoothness.sec25", "pearson"),
    "uniformity, entropy": ("uniformity.normalised_entropy", "pearson"),
    "equivariance to scale": ("equivariance.scale_error", "pearson"),
    "FIR, Fisher information rate": ("fisher.fir", "pearson"),
    "FIR's deviation from pixels": ("fisher.fir_deviation_per_dimension", "pearson"),
}
PANELS = [
    ("sit-xs", "conv-f2d16"),
    ("lightningdit-xs", "conv-f2d16"),
    ("sit-xs", "trans-f2d16"),
    ("lightningdit-xs", "trans-f2d16"),
]


def cell(row: pd.Series, statistic: str) -> str:
    """Return r and its interval, oriented, as the gallery writes them."""
    ends = [row[name] for name in (statistic, f"{statistic}_low", f"{statistic}_high")]
    value, *interval = [end * row["expected_sign"] for end in ends]
    low, high = sorted(interval)
    words = [f"{number:.2f}".replace("0.", ".") for number in (value, low, high)]
    bold = "**" if low * high > 0 else ""
    return f"{bold}{words[0]}{bold} [{words[1]}, {words[2]}]" + "*" * bool(row["at_chance"])


def expected() -> dict[str, list[str]]:
    """Return the rows of the gallery's table from its measurements."""
    path = GALLERY / "shapes-small" / "tables" / "measurements.csv.gz"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame = frame.rename(columns={"cfg": "guidance"})
    wanted = {metric for metric, _ in METRICS.values()} | {TARGET, "reconstruction.psnr"}
    table = check_measurements(frame[frame["metric"].isin(wanted)])
    found = correlate(table).set_index(["metric", "backbone", "family"])
    return {
        words: [cell(found.loc[(metric, *panel)], statistic) for panel in PANELS]
        for words, (metric, statistic) in METRICS.items()
    }


@pytest.mark.parametrize("words", list(METRICS))
def test_every_number_is_recomputed(words: str, rows: dict[str, list[str]]) -> None:
    text = (GALLERY / "README.md").read_text()
    (line,) = re.findall(rf"^\| {re.escape(words)} \|(.*)\|$", text, flags=re.MULTILINE)
    assert [part.strip() for part in line.split("|")] == rows[words]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    return expected()
