"""Figures of the toy study: what stands in which panel, and that rounding is not drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from diffusability.figures.fisher_toy import (
    READINGS,
    draw_activations,
    draw_deviation_by_noise,
    draw_deviation_by_parameter,
)

LEVELS = (0.01, 0.1, 1.0, 3.0)
NUMBERS = ("fi", "fir", "mmse_rate")


def row(experiment: str, space: str, parameter: float, network: str, v: float) -> dict:
    numbers = {f"{who}{name}": 1 / v for who in ("", "pixel_") for name in NUMBERS}
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
