"""Figures of the second paper's image experiments: what stands in which panel."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from diffusability.analysis.latent_spaces import fisher_totals
from diffusability.figures.fisher_latents import (
    draw_fisher_encoders,
    draw_fisher_levels,
    mean_curves,
    scaled_deviations,
)
from diffusability.figures.results import Results
from diffusability.figures.spectra import draw_spectra
from tests.unit.latent_tables import LEVELS, SPACES, latent_measurements, made_spectra, totals

COLUMNS = 6  # FI, FIR, the same a dimension, MMSE rate, deviation


def results_of(table: pd.DataFrame, spectra: pd.DataFrame | None = None) -> Results:
    tables = {"measurements": table} | ({} if spectra is None else {"spectra": spectra})
    return Results(tables, {}, "generation.fd_judge")


def panels(figure) -> np.ndarray:
    return np.reshape(figure.axes, (-1, COLUMNS))


def curves(axis: Axes) -> dict[str, list[float]]:
    """Return the ordinates of the labelled lines of a panel."""
    lines = [line for line in axis.lines if not line.get_label().startswith("_")]
    return {line.get_label(): line.get_ydata().tolist() for line in lines}


def sentence(figure) -> str:
    return " ".join(figure.axes[0].texts[0].get_text().split())


def test_a_row_a_network_and_a_line_a_space() -> None:
    axes = panels(draw_fisher_encoders(results_of(latent_measurements())))
    assert [row[0].get_ylabel() for row in axes] == ["dit-xs", "unet-xs", "mixture fit"]
    for row in axes:
        fir, share, rate, deviation = (curves(row[k]) for k in (1, 3, 4, 5))
        assert list(fir) == ["pixels", "gpe", "vae"]
        assert list(deviation) == ["gpe", "vae"]
        pixels = [totals(SPACES["pixels"][2], v)["fir"] for v in LEVELS]
        for name in ("gpe", "vae"):
            exact = [totals(SPACES[name][2], v) for v in LEVELS]
            own, square = np.array([at["fir"] for at in exact]), np.square(LEVELS)
            assert fir[name] == pytest.approx(own)
            assert share[name] == pytest.approx(square * own / 4)
            assert rate[name] == pytest.approx([at["mmse_rate"] / 4 for at in exact])
            assert deviation[name] == pytest.approx(square * abs(np.array(pixels) - own) / 8)
        assert row[1].get_yscale() == "log"
        assert row[3].get_yscale() == "linear"


def test_levels_are_drawn_from_coarse_to_fine() -> None:
    axes = panels(draw_fisher_levels(results_of(latent_measurements())))
    assert list(curves(axes[0, 0])) == ["pixels", "level-coarse", "level-fine"]
    # every eigenvalue is 1: a dimension, the curves are one
    for seen in curves(axes[0, 2]).values():
        assert seen == pytest.approx([v / (1 + v) for v in LEVELS])


def test_flagged_estimates_are_open() -> None:
    table = latent_measurements(flagged=LEVELS[:1])
    axes = panels(draw_fisher_encoders(results_of(table)))
    for axis, expected in ((axes[0, 0], 3), (axes[0, 5], 2), (axes[2, 0], 0)):
        points = [container[0] for container in axis.containers]
        open_ones = [p for p in points if to_rgba(p.get_markerfacecolor()) == to_rgba("white")]
        assert len(open_ones) == expected
        assert all(p.get_xdata().tolist() == [LEVELS[0]] for p in open_ones)


def test_means_over_runs_have_the_spread_of_runs() -> None:
    table = latent_measurements(seeds=(-0.1, 0.1), encoders=1)
    rows = mean_curves(fisher_totals(table))
    at = rows[(rows["quantity"] == "fi") & (rows["v"] == 1.0) & (rows["tokenizer"] == "gpe")]
    learned = at[at["network"] == "dit-xs"].iloc[0]
    assert learned["total"] == pytest.approx(2.0)
    assert learned["spread"] == pytest.approx(0.2)  # of 1.8 and 2.2
    assert (learned["share"], learned["share_spread"]) == pytest.approx((0.5, 0.05))
    fitted = at[at["network"] == "mixture fit"].iloc[0]
    assert fitted["spread"] == pytest.approx(0.002)  # one fit: that of its measurement


def test_a_deviation_has_the_errors_of_both_curves() -> None:
    table = latent_measurements(error=0.1, seeds=(0.0,), encoders=1)
    means = mean_curves(fisher_totals(table))
    rows = scaled_deviations(means[means["network"] == "dit-xs"])
    gpe = rows[(rows["tokenizer"] == "gpe") & (rows["v"] == 1.0)].iloc[0]
    assert gpe["deviation"] == pytest.approx((2.0 - 1.0) / 8)
    assert gpe["deviation_spread"] == pytest.approx(np.hypot(0.2, 0.1) / 8)


def test_a_study_without_the_spaces_says_so() -> None:
    table = latent_measurements()
    without = table[~table["cluster"].isin(["gpe", "pixels"])]
    said = sentence(draw_fisher_encoders(results_of(without)))
    assert said == "Fisher curves of `pixels` and of `gpe` were not measured in this study"
    assert "`level`" in sentence(
        draw_fisher_levels(results_of(table[~table["family"].str.startswith("hier")]))
    )


def test_spectra_stand_beside_their_permutation() -> None:
    figure = draw_spectra(results_of(latent_measurements(), made_spectra()))
    drawn = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert list(drawn) == ["pixels", "mixed", "gpe"]
    for name, powers in (("pixels", [4.0, 2.0, 1.0]), ("gpe", [1.0, 2.0, 0.5])):
        own, permuted = (c[0].get_ydata().tolist() for c in drawn[name].containers)
        assert own == powers
        assert permuted == [1.0, 1.0, 1.0]
    assert drawn["gpe"].get_xlabel() == "cycles per entry"
    assert drawn["pixels"].get_xlabel() == "cycles per cell (radial)"


def test_a_grid_too_small_for_a_spectrum_is_said() -> None:
    spectra = made_spectra()
    level = spectra[(spectra["tokenizer"] == "pixels") & (spectra["order"] == "line")]
    level = level.assign(tokenizer="level", family="hierarchical-f4d2", cluster="baseline")
    for shown in (pd.concat([spectra, level]), level):
        figure = draw_spectra(results_of(latent_measurements(), shown))
        panel = next(axis for axis in figure.axes if axis.get_title() == "level")
        assert "too few radial" in panel.texts[0].get_text().replace("\n", " ")
        assert not panel.has_data()


def test_a_study_without_spectra_says_so() -> None:
    for spectra in (None, made_spectra().iloc[:0]):
        figure = draw_spectra(results_of(latent_measurements(), spectra))
        assert sentence(figure) == "power spectra were not measured in this study"
