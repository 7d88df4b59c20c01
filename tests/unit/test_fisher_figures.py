"""Figures of the toy study: contents of each panel, and that rounding is not drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from diffusability.figures.fisher_toy import (
    READINGS,
    deviation_parts,
    draw_activations,
    draw_deviation_by_noise,
    draw_deviation_by_parameter,
    draw_deviation_parts,
)

LEVELS = (0.01, 0.1, 1.0, 3.0)
NUMBERS = ("fi", "fir", "mmse_rate")


def row(experiment: str, space: str, parameter: float, network: str, v: float) -> dict:
    numbers = {"dim": 2, "pixel_dim": 2, "pixel_fir": 0.0}
    numbers |= {f"{who}{name}": 1 / v for who in ("", "pixel_") for name in NUMBERS}
    errors = {f"{name}_stderr": 0.01 for name in (*numbers, *READINGS)}
    # the intrinsic deviation of a flat embedding is rounding
    readings = {name: parameter * v for name in READINGS if name != "intrinsic"}
    cell = {"experiment": experiment, "space": space, "parameter": parameter, "network": network}
    return cell | numbers | errors | readings | {"intrinsic": 1e-12, "v": v}


@pytest.fixture
def table() -> pd.DataFrame:
    spaces = [("activation", "relu", np.nan), ("activation", "leaky-2", 2.0)]
    spaces += [("scale", f"scale-{eps}", eps) for eps in (0.1, 0.2, 0.3, 0.4, 0.5)]
    spaces += [("dimension", f"plane-{d}", float(d)) for d in (2, 3)]
    spaces += [("cylinder", f"cylinder-{k}", k) for k in (0.2, 0.4)]
    networks = {"activation": ("exact", "edm"), "scale": ("exact", "edm")}
    return pd.DataFrame(
        row(experiment, space, parameter, network, v)
        for experiment, space, parameter in spaces
        for network in networks.get(experiment, ("exact",))
        for v in LEVELS
    )


def drawn(axis: Axes) -> list[np.ndarray]:
    """Return the ordinates of the labelled lines of a panel."""
    return [line.get_ydata() for line in axis.lines if not line.get_label().startswith("_")]


def test_activation_panels_hold_the_data_every_space_and_the_learned_points(table) -> None:
    axes = draw_activations(table).axes
    assert [axis.get_ylabel() for axis in axes[:3]] == ["FI", "FIR", "MMSE rate"]
    for axis, space in ((axes[0], "relu"), (axes[3], "leaky-2")):
        labels = [line.get_label() for line in axis.lines if line.get_label()[0] != "_"]
        assert labels == ["data", space, "learned: edm"]
        assert drawn(axis)[1].tolist() == pytest.approx([1 / v for v in LEVELS])
        assert len(axis.containers) == 2  # learned data, learned latents


def test_deviations_against_the_parameter(table) -> None:
    axes = np.reshape(draw_deviation_by_parameter(table).axes, (len(READINGS), 3))
    assert [axis.get_title() for axis in axes[0]] == ["scale", "dimension", "cylinder"]
    relative = drawn(axes[0, 0])
    assert relative[0].tolist() == pytest.approx([0.01 * e for e in (0.1, 0.2, 0.3, 0.4, 0.5)])
    assert len(relative) == 2  # the levels below 1
    for values in drawn(axes[3, 1]):
        assert values.tolist() == [0, 0]


def test_deviations_against_noise(table) -> None:
    axes = np.reshape(draw_deviation_by_noise(table).axes, (len(READINGS), 3))
    # at most four parameters, first and last among them
    labels = [line.get_label() for line in axes[0, 0].lines if line.get_label()[0] != "_"]
    assert labels == ["0.1", "0.2", "0.4", "0.5"]
    assert len(drawn(axes[0, 1])) == 2  # nothing was learned there: every parameter
    assert all(len(values) == 0 for values in drawn(axes[3, 1]))
    assert axes[0, 0].get_yscale() == "log"


def test_parts_of_the_deviation_are_those_of_the_theory(table) -> None:
    v = 0.1
    rows = table.assign(pixel_fir=2 / (1 + v) ** 2, fir=2 / (1 + v) ** 2)
    scale = rows["experiment"] == "scale"
    rows.loc[scale, "fir"] = 2 / (1 + rows["parameter"] + v) ** 2
    flat = rows["experiment"] == "dimension"
    rows.loc[flat, "dim"], rows.loc[flat, "pixel_dim"] = rows.loc[flat, "parameter"], 3
    rows.loc[flat, "pixel_fir"] += 1 / v**2
    rows.loc[flat, "fir"] += (rows.loc[flat, "dim"] - 2) / v**2
    rows.loc[rows["experiment"] == "cylinder", "fir"] += 0.5
    linear, plane = (deviation_parts(rows, name) for name in ("scale", "dimension"))
    assert linear["rest"].tolist() == pytest.approx(linear["theory"].tolist())
    assert linear["dimension"].eq(0).all()
    assert plane["dimension"].tolist() == pytest.approx([-1 / 3, 0])
    assert plane["rest"].tolist() == pytest.approx([0, 0], abs=1e-12)
    axes = draw_deviation_parts(rows).axes
    assert [axis.get_title() for axis in axes] == ["scale", "dimension", "cylinder"]
    # parts that are zero everywhere are not drawn
    assert [len(axis.patches) for axis in axes] == [5, 2, 2]
    assert "at v = 0.1" in axes[0].get_ylabel()
    # the bent plane has no closed form, so none is named
    named = [{text.get_text() for text in axis.get_legend().get_texts()} for axis in axes]
    assert ["theory" in words for words in named] == [True, True, False]
