"""Clusters can be told apart, and the numbers of points hide nothing."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from diffusability.figures.labels import number_ends, number_points
from diffusability.figures.style import CLUSTERS, cluster_styles

# Viénot, Brettel and Mollon (1999): linear RGB as seen without red or without green cones
CONES = {
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopia": np.array(
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
    ),
}


def linear(colour: str) -> np.ndarray:
    """Return a colour in linear RGB."""
    return np.array(
        [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    )


def test_nine_clusters_have_nine_shapes_and_colours() -> None:
    colours, markers = zip(*CLUSTERS.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == 9


@pytest.mark.parametrize("cones", CONES)
def test_colours_stay_apart_without_one_kind_of_cone(cones: str) -> None:
    seen = {name: np.cbrt(CONES[cones] @ linear(colour)) for name, (colour, _) in CLUSTERS.items()}
    for first, second in combinations(seen, 2):
        assert np.linalg.norm(seen[first] - seen[second]) > 0.08, (first, second)


def test_no_colour_vanishes_on_white() -> None:
    for colour, _ in CLUSTERS.values():
        luminance = linear(colour) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) > 2  # contrast with paper


def test_styles_do_not_depend_on_what_else_is_there() -> None:
    assert cluster_styles(["lcr", "baseline"]) == {c: CLUSTERS[c] for c in ("baseline", "lcr")}
    foreign = cluster_styles(["mine", "baseline", "yours"])
    assert list(foreign) == ["baseline", "mine", "yours"]
    assert len(set(foreign.values())) == 3


def panel():
    """Return a panel of two inches whose data are inches."""
    axis = Figure(figsize=(2, 2)).add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 2), ylim=(0, 2))
    return axis


def test_a_lone_number_stands_right_of_its_point() -> None:
    axis = panel()
    number_points(axis, [1.0], [1.0], ["7"])
    (text,) = axis.texts
    x, y = text.get_position()
    assert text.get_text() == "7"
    assert y == pytest.approx(0.5)
    assert 0.5 < x < 0.56


def test_numbers_touch_neither_points_nor_each_other() -> None:
    axis = panel()
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.8, 1.2, (2, 40))
    number_points(axis, x, y, [str(k) for k in range(40)])
    assert 5 < len(axis.texts) < 40  # the others would hide something
    renderer = FigureCanvasAgg(axis.figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    dots = axis.transData.transform(np.column_stack([x, y]))
    assert not any(box.contains(*dot) for box in boxes for dot in dots)


def test_names_of_ends_keep_their_order_and_never_touch() -> None:
    axis = panel()
    ends = np.r_[np.linspace(1.0, 1.01, 30), 0.1]
    number_ends(axis, ends, [str(k) for k in range(31)])
    places = {int(text.get_text()): text.get_position() for text in axis.texts}
    assert len(places) == 31
    columns = {x for x, _ in places.values()}
    for column in columns:
        own = [places[k][1] for k in np.argsort(ends) if places[k][0] == column]
        assert min(np.diff(own)) * 144 > 4  # points
        assert max(own) <= 1
